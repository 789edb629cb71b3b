include "../real64.pxi"
include "spans.pxi"
