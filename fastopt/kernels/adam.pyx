# Adam (Kingma and Ba 2014) and AMSGrad (Reddi, Kale and Kumar 2018).
# h: beta1, 1 - beta1, beta2, 1 - beta2, step size, scale of the root, eps. The two bias corrections live in the step
# size and the scale, so that an element costs one root and one division.

cdef void adam(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], scale = h[5], eps = h[6]
    cdef real mi, vi
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        p[i] = p[i] - step * (mi / (sqrt(vi) * scale + eps))
        m[i] = mi
        v[i] = vi


cdef void adam_amsgrad(Py_ssize_t n, rw p, ro g, rw m, rw v, rw w, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], scale = h[5], eps = h[6]
    cdef real mi, vi, wi
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        wi = w[i] if w[i] >= vi else vi
        p[i] = p[i] - step * (mi / (sqrt(wi) * scale + eps))
        m[i] = mi
        v[i] = vi
        w[i] = wi


# Catch-up. With zero gradients m and v decay by b1 and b2, and a row that stood at (m, v) moves by
#
#     -m sum_i a_i / (sqrt(v) + y_i),    a_i = (step size / scale) (b1 / sqrt(b2))^i,   y_i = (eps / scale) / sqrt(b2)^i
#
# The gap holds the sums F_j of a_i y_i^j. About their mean y = F_1/F_0, with w = y / (sqrt(v) + y) <= 1, the sum is
# F_0 / (sqrt(v) + y) (1 + w^2 c_2 - w^3 c_3 + ...), where c_j is the mean of (y_i / y - 1)^j: small, as y_i moves slowly, and
# smaller still where eps is small beside the root. Scalars: keep, b1, b2, y, F_0 (1, c_2, -c_3, ...), and the bar: elements
# with v below it need more terms, so their row is replayed. Other optimizers share this law by a gap of their own, in a kind
# of their own where a row is read differently.

cdef enum:
    SQUARES             # the root of v stands below
    LARGEST             # that of the largest v
    NORMS               # v itself
    PLAIN               # as SQUARES; and there were steps without a root, whose drift is the last scalar

cdef enum:
    BAR = SERIES + 2
    FIRST = SERIES + 3
    LESS = SERIES + 4
    SCALARS = SERIES + 5

cdef void catch_adam_scalars(const double *gap, int n_series, const real *first, real *h) noexcept nogil:
    cdef const double *f = gap + 4 + n_series
    cdef double raw[SERIES]
    cdef double central[SERIES]
    cdef double total = f[0], y = 0, ratio, reach, best = 0, power = 1, binomial
    cdef int j, k, order = 1, used = 1
    if total > 0:
        y = f[1] / total
    if not y < BAR_MOST:                    # or NaN: so far back that every row is replayed
        total, y = 0, 1
    elif y < 1e-30:                         # nothing beside any root
        y, best = (y if y > TINY else TINY), 1
    for j in range(SERIES):                 # moments of y_i / y about 0, then about 1
        raw[j] = f[j] / total / power
        power = power * y
    for j in range(SERIES):
        central[j], binomial = 0, 1
        for k in range(j + 1):
            central[j] = central[j] + (binomial if (j - k) % 2 == 0 else -binomial) * raw[k]
            binomial = binomial * (j - k) / (k + 1)
    # The terms to `order` leave an error of w^(order + 1) times the next, even moment: they serve for w up to `reach`.
    while order + 1 < SERIES and best < 1:
        ratio = TOLERANCE / (central[order + 1] if central[order + 1] > 0 else -central[order + 1])
        reach = 0
        if ratio > 0:                       # not where the moment is infinite or NaN
            reach, k = ratio, order + 1
            while k > 1:
                reach, k = sqrt64(reach), k // 2
        if reach > best:
            best, used = reach, order
        order = 2 * order + 1
    h[0], h[LESS], h[1], h[2] = <real>gap[0], <real>gap[4 + 2 * n_series], <real>gap[2], <real>gap[3]
    h[3] = <real>y
    # Rows below the bar are replayed; where eps is nothing beside any root, those whose g * g is 0.
    ratio = 0
    if f[0] != 0 and y < 1e-30:
        ratio = 1e12 * y
    elif f[0] != 0 and best < 1:
        ratio = y * (1 - best) / best if best > 0 else BAR_MOST
    if not ratio < BAR_MOST:
        ratio = BAR_MOST
    if ratio > 0:
        ratio = ratio * ratio if ratio * ratio > TINY else TINY
    h[BAR] = <real>ratio
    h[4] = <real>total
    for j in range(2, SERIES - 1):
        ratio = (total if j % 2 == 0 else -total) * central[j] if j <= used and total > 0 else 0
        if not -BAR_MOST < ratio < BAR_MOST:
            ratio, h[BAR] = 0, <real>(BAR_MOST * BAR_MOST)
        h[3 + j] = <real>ratio
    h[FIRST] = first[2]                     # AMSGrad: the first step after the last gradient may still raise the maximum


cdef inline int stiff(Py_ssize_t n, const real *m, const real *v, const real *w, const int kind,
                      const real *h) noexcept nogil:
    # A search that ends at the first find, so it is no loop to vectorize.
    cdef Py_ssize_t j = 0
    cdef real root
    if h[BAR] == 0:
        return False
    while j < n:
        root = v[j] * v[j] if kind == NORMS else v[j]
        if kind == LARGEST:
            root = w[j] if w[j] >= h[FIRST] * v[j] else h[FIRST] * v[j]
        if root < h[BAR] and m[j] != 0:
            return True
        j += 1
    return False


cdef inline void catch_up(Py_ssize_t n, rw p, rw m, rw v, rw w, const int kind, ro h, const Py_ssize_t far,
                          const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    cdef int j
    cdef real y, u, part, sum, root, move
    for i in range(n):
        root = v[i]
        if kind == LARGEST:
            root = h[FIRST * far + each * i] * v[i]
            root = w[i] if w[i] >= root else root
            w[i] = root
        if kind != NORMS:
            root = sqrt(root)
        y = h[3 * far + each * i]
        u = 1 / (root + y)
        part = y * u
        sum = 0
        for j in range(SERIES - 2, 1, -1):
            sum = h[(3 + j) * far + each * i] + part * sum
        move = m[i] * (u * (h[4 * far + each * i] + part * part * sum))
        if kind == PLAIN:
            move = move + m[i] * h[SCALARS * far + each * i]
        p[i] = h[each * i] * p[i] + (h[LESS * far + each * i] * p[i] - move)
        m[i] = h[far + each * i] * m[i]
        v[i] = h[2 * far + each * i] * v[i]


cdef int catch_adam_stiff(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    return stiff(n, m, v, v, SQUARES, h)


cdef int catch_adam_amsgrad_stiff(Py_ssize_t n, rw p, rw m, rw v, rw w, rw s3, ro h) noexcept nogil:
    return stiff(n, m, v, w, LARGEST, h)


cdef void catch_adam_row(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, s2, SQUARES, h, 1, 0)


cdef void catch_adam_each(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, s2, SQUARES, h, GATHER, 1)


cdef void catch_adam_amsgrad_row(Py_ssize_t n, rw p, rw m, rw v, rw w, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, w, LARGEST, h, 1, 0)


cdef void catch_adam_amsgrad_each(Py_ssize_t n, rw p, rw m, rw v, rw w, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, w, LARGEST, h, GATHER, 1)


TABLE["catch_adam_count"] = TABLE["catch_adam_amsgrad_count"] = SCALARS
TABLE["catch_adam_scalars"] = TABLE["catch_adam_amsgrad_scalars"] = <size_t><void *>catch_adam_scalars
TABLE["catch_adam_stiff"] = <size_t><void *>catch_adam_stiff
TABLE["catch_adam_amsgrad_stiff"] = <size_t><void *>catch_adam_amsgrad_stiff
TABLE["catch_adam_row"] = <size_t><void *>catch_adam_row
TABLE["catch_adam_each"] = <size_t><void *>catch_adam_each
TABLE["catch_adam_amsgrad_row"] = <size_t><void *>catch_adam_amsgrad_row
TABLE["catch_adam_amsgrad_each"] = <size_t><void *>catch_adam_amsgrad_each
TABLE["adam"] = <size_t><void *>adam
TABLE["adam_amsgrad"] = <size_t><void *>adam_amsgrad
