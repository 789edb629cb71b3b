include "../real32.pxi"
include "spans.pxi"
