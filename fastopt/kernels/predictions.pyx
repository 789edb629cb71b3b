# Scores of a sample by models side by side: the order of sums is that of row_scores in batches.pxi.

cdef void lanes_predict(Py_ssize_t n, Py_ssize_t lanes, const int32_t *ids, const real *x, const real *w, Py_ssize_t stride,
                        const real *up, const real *bias, real *out) noexcept nogil:
    cdef Py_ssize_t c = 0
    if up == NULL:
        while c + 2 * WIDE <= lanes:
            scores_of_models(True, False, n, ids, x, w + c, stride, NULL, bias + c, out + c)
            c += 2 * WIDE
        while c < lanes:
            scores_of_models(False, False, n, ids, x, w + c, stride, NULL, bias + c, out + c)
            c += WIDE
    else:
        while c + 2 * WIDE <= lanes:
            scores_of_models(True, True, n, ids, x, w + c, stride, up + c, bias + c, out + c)
            c += 2 * WIDE
        while c < lanes:
            scores_of_models(False, True, n, ids, x, w + c, stride, up + c, bias + c, out + c)
            c += WIDE


TABLE["lanes_predict"] = <size_t><void *>lanes_predict
