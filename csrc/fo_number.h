/* Decimal numbers in text as float64, to the nearest, ties to even: what Python's float() makes of them, bit for bit.

   The number w * 10^q with an integer w of at most 19 digits is the product of w and a table's 128 bits of 5^q (D. Lemire,
   "Number parsing at a gigabyte per second", 2021; that no case needs a second look: N. Mushtak and D. Lemire, "Fast number
   parsing without fallback", 2023). Integers only: neither the rounding mode nor flushed subnormals matter. Whatever else there
   is (more digits, far exponents, inf, nan, nonsense) is the caller's, who has a slower way. */
#ifndef FO_NUMBER_H
#define FO_NUMBER_H

#include <stdint.h>
#include <string.h>

#include "fo_bytes.h"

#define FO_POWER_LEAST (-60)
#define FO_POWER_MOST 60

/* The first 128 bits of 5^q, high half first; rounded up for q from -27 to -1, else cut off. */
static const uint64_t fo_powers[FO_POWER_MOST - FO_POWER_LEAST + 1][2] = {
    {0xcdb02555653131b6, 0x3792f412cb06794d}, {0x808e17555f3ebf11, 0xe2bbd88bbee40bd0},
    {0xa0b19d2ab70e6ed6, 0x5b6aceaeae9d0ec4}, {0xc8de047564d20a8b, 0xf245825a5a445275},
    {0xfb158592be068d2e, 0xeed6e2f0f0d56712}, {0x9ced737bb6c4183d, 0x55464dd69685606b},
    {0xc428d05aa4751e4c, 0xaa97e14c3c26b886}, {0xf53304714d9265df, 0xd53dd99f4b3066a8},
    {0x993fe2c6d07b7fab, 0xe546a8038efe4029}, {0xbf8fdb78849a5f96, 0xde98520472bdd033},
    {0xef73d256a5c0f77c, 0x963e66858f6d4440}, {0x95a8637627989aad, 0xdde7001379a44aa8},
    {0xbb127c53b17ec159, 0x5560c018580d5d52}, {0xe9d71b689dde71af, 0xaab8f01e6e10b4a6},
    {0x9226712162ab070d, 0xcab3961304ca70e8}, {0xb6b00d69bb55c8d1, 0x3d607b97c5fd0d22},
    {0xe45c10c42a2b3b05, 0x8cb89a7db77c506a}, {0x8eb98a7a9a5b04e3, 0x77f3608e92adb242},
    {0xb267ed1940f1c61c, 0x55f038b237591ed3}, {0xdf01e85f912e37a3, 0x6b6c46dec52f6688},
    {0x8b61313bbabce2c6, 0x2323ac4b3b3da015}, {0xae397d8aa96c1b77, 0xabec975e0a0d081a},
    {0xd9c7dced53c72255, 0x96e7bd358c904a21}, {0x881cea14545c7575, 0x7e50d64177da2e54},
    {0xaa242499697392d2, 0xdde50bd1d5d0b9e9}, {0xd4ad2dbfc3d07787, 0x955e4ec64b44e864},
    {0x84ec3c97da624ab4, 0xbd5af13bef0b113e}, {0xa6274bbdd0fadd61, 0xecb1ad8aeacdd58e},
    {0xcfb11ead453994ba, 0x67de18eda5814af2}, {0x81ceb32c4b43fcf4, 0x80eacf948770ced7},
    {0xa2425ff75e14fc31, 0xa1258379a94d028d}, {0xcad2f7f5359a3b3e, 0x096ee45813a04330},
    {0xfd87b5f28300ca0d, 0x8bca9d6e188853fc}, {0x9e74d1b791e07e48, 0x775ea264cf55347e},
    {0xc612062576589dda, 0x95364afe032a819e}, {0xf79687aed3eec551, 0x3a83ddbd83f52205},
    {0x9abe14cd44753b52, 0xc4926a9672793543}, {0xc16d9a0095928a27, 0x75b7053c0f178294},
    {0xf1c90080baf72cb1, 0x5324c68b12dd6339}, {0x971da05074da7bee, 0xd3f6fc16ebca5e04},
    {0xbce5086492111aea, 0x88f4bb1ca6bcf585}, {0xec1e4a7db69561a5, 0x2b31e9e3d06c32e6},
    {0x9392ee8e921d5d07, 0x3aff322e62439fd0}, {0xb877aa3236a4b449, 0x09befeb9fad487c3},
    {0xe69594bec44de15b, 0x4c2ebe687989a9b4}, {0x901d7cf73ab0acd9, 0x0f9d37014bf60a11},
    {0xb424dc35095cd80f, 0x538484c19ef38c95}, {0xe12e13424bb40e13, 0x2865a5f206b06fba},
    {0x8cbccc096f5088cb, 0xf93f87b7442e45d4}, {0xafebff0bcb24aafe, 0xf78f69a51539d749},
    {0xdbe6fecebdedd5be, 0xb573440e5a884d1c}, {0x89705f4136b4a597, 0x31680a88f8953031},
    {0xabcc77118461cefc, 0xfdc20d2b36ba7c3e}, {0xd6bf94d5e57a42bc, 0x3d32907604691b4d},
    {0x8637bd05af6c69b5, 0xa63f9a49c2c1b110}, {0xa7c5ac471b478423, 0x0fcf80dc33721d54},
    {0xd1b71758e219652b, 0xd3c36113404ea4a9}, {0x83126e978d4fdf3b, 0x645a1cac083126ea},
    {0xa3d70a3d70a3d70a, 0x3d70a3d70a3d70a4}, {0xcccccccccccccccc, 0xcccccccccccccccd},
    {0x8000000000000000, 0x0000000000000000}, {0xa000000000000000, 0x0000000000000000},
    {0xc800000000000000, 0x0000000000000000}, {0xfa00000000000000, 0x0000000000000000},
    {0x9c40000000000000, 0x0000000000000000}, {0xc350000000000000, 0x0000000000000000},
    {0xf424000000000000, 0x0000000000000000}, {0x9896800000000000, 0x0000000000000000},
    {0xbebc200000000000, 0x0000000000000000}, {0xee6b280000000000, 0x0000000000000000},
    {0x9502f90000000000, 0x0000000000000000}, {0xba43b74000000000, 0x0000000000000000},
    {0xe8d4a51000000000, 0x0000000000000000}, {0x9184e72a00000000, 0x0000000000000000},
    {0xb5e620f480000000, 0x0000000000000000}, {0xe35fa931a0000000, 0x0000000000000000},
    {0x8e1bc9bf04000000, 0x0000000000000000}, {0xb1a2bc2ec5000000, 0x0000000000000000},
    {0xde0b6b3a76400000, 0x0000000000000000}, {0x8ac7230489e80000, 0x0000000000000000},
    {0xad78ebc5ac620000, 0x0000000000000000}, {0xd8d726b7177a8000, 0x0000000000000000},
    {0x878678326eac9000, 0x0000000000000000}, {0xa968163f0a57b400, 0x0000000000000000},
    {0xd3c21bcecceda100, 0x0000000000000000}, {0x84595161401484a0, 0x0000000000000000},
    {0xa56fa5b99019a5c8, 0x0000000000000000}, {0xcecb8f27f4200f3a, 0x0000000000000000},
    {0x813f3978f8940984, 0x4000000000000000}, {0xa18f07d736b90be5, 0x5000000000000000},
    {0xc9f2c9cd04674ede, 0xa400000000000000}, {0xfc6f7c4045812296, 0x4d00000000000000},
    {0x9dc5ada82b70b59d, 0xf020000000000000}, {0xc5371912364ce305, 0x6c28000000000000},
    {0xf684df56c3e01bc6, 0xc732000000000000}, {0x9a130b963a6c115c, 0x3c7f400000000000},
    {0xc097ce7bc90715b3, 0x4b9f100000000000}, {0xf0bdc21abb48db20, 0x1e86d40000000000},
    {0x96769950b50d88f4, 0x1314448000000000}, {0xbc143fa4e250eb31, 0x17d955a000000000},
    {0xeb194f8e1ae525fd, 0x5dcfab0800000000}, {0x92efd1b8d0cf37be, 0x5aa1cae500000000},
    {0xb7abc627050305ad, 0xf14a3d9e40000000}, {0xe596b7b0c643c719, 0x6d9ccd05d0000000},
    {0x8f7e32ce7bea5c6f, 0xe4820023a2000000}, {0xb35dbf821ae4f38b, 0xdda2802c8a800000},
    {0xe0352f62a19e306e, 0xd50b2037ad200000}, {0x8c213d9da502de45, 0x4526f422cc340000},
    {0xaf298d050e4395d6, 0x9670b12b7f410000}, {0xdaf3f04651d47b4c, 0x3c0cdd765f114000},
    {0x88d8762bf324cd0f, 0xa5880a69fb6ac800}, {0xab0e93b6efee0053, 0x8eea0d047a457a00},
    {0xd5d238a4abe98068, 0x72a4904598d6d880}, {0x85a36366eb71f041, 0x47a6da2b7f864750},
    {0xa70c3c40a64e6c51, 0x999090b65f67d924}, {0xd0cf4b50cfe20765, 0xfff4b4e3f741cf6d},
    {0x82818f1281ed449f, 0xbff8f10e7a8921a4}, {0xa321f2d7226895c7, 0xaff72d52192b6a0d},
    {0xcbea6f8ceb02bb39, 0x9bf4f8a69f764490}, {0xfee50b7025c36a08, 0x02f236d04753d5b4},
    {0x9f4f2726179a2245, 0x01d762422c946590}
};

static inline int fo_is_digit(unsigned char c) { return (unsigned char)(c - '0') < 10; }

static inline int fo_leading_zeros(uint64_t x) {    /* x is not 0 */
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_clzll(x);
#else
    int n = 0;
    for (; !(x >> 63); x <<= 1) n++;
    return n;
#endif
}

/* The 128 bits of a product. */
static inline uint64_t fo_product(uint64_t a, uint64_t b, uint64_t *low) {
#ifdef __SIZEOF_INT128__
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
#else
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t c = a0 * b0, d = a1 * b0 + (c >> 32), e = a0 * b1 + (uint32_t)d;
    *low = e << 32 | (uint32_t)c;
    return a1 * b1 + (d >> 32) + (e >> 32);
#endif
}

/* w * 10^q, q within the table. */
static inline double fo_scaled(uint64_t w, int q, int negative) {
    double x;
    uint64_t bits = 0;
    if (w) {
        const uint64_t *power = fo_powers[q - FO_POWER_LEAST];
        int zeros = fo_leading_zeros(w), upper, shift, exponent;
        uint64_t low, high, more, unused;
        w <<= zeros;
        high = fo_product(w, power[0], &low);
        if ((high & 0x1FF) == 0x1FF) {      /* a carry out of what was left out may reach the 55 bits that count */
            more = fo_product(w, power[1], &unused);
            low += more;
            high += low < more;
        }
        upper = (int)(high >> 63), shift = upper + 9;
        bits = high >> shift;               /* 54 bits: one more than the mantissa, which rounds it */
        exponent = (((152170 + 65536) * q) >> 16) + 63 + upper - zeros + 1023;
        if (low <= 1 && q >= -4 && q <= 23 && (bits & 3) == 1 && bits << shift == high) bits &= ~(uint64_t)1;   /* a tie */
        bits = (bits + (bits & 1)) >> 1;
        if (bits >> 53) bits >>= 1, exponent++;
        bits = (bits & 0xFFFFFFFFFFFFF) | (uint64_t)exponent << 52;
    }
    bits |= (uint64_t)negative << 63;
    memcpy(&x, &bits, 8);
    return x;
}

/* How many bytes come before the first whose high bit is set in x, which is not 0. */
static inline int fo_bytes_before(uint64_t x) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(x) >> 3;
#else
    int n = 0;
    for (; !(x & 0x80); x >>= 8) n++;
    return n;
#endif
}

/* The byte after the digits at p, which `w` takes in; a byte that is no digit stands before `end`. Numbers have any length, so
   that a branch for each digit would be guessed wrong once a number; here is none. */
static inline const unsigned char *fo_digits(const unsigned char *p, const unsigned char *end, uint64_t *w) {
    static const uint32_t tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    while (end - p >= 8) {
        uint64_t x = fo_eight(p), others = ((x + 0x4646464646464646u) | (x - 0x3030303030303030u)) & 0x8080808080808080u;
        int n = others ? fo_bytes_before(others) : 8;
        x ^= 0x3030303030303030u;
        if (n < 8) x = x << 8 << (56 - 8 * n);      /* zeros in front, and nothing behind */
        x = x * 10 + (x >> 8);
        x = ((x & 0xFF000000FFu) * (100 + (1000000ull << 32)) + (x >> 16 & 0xFF000000FFu) * (1 + (10000ull << 32))) >> 32;
        *w = *w * tens[n] + x;
        p += n;
        if (n < 8) return p;
    }
    for (; fo_is_digit(*p); p++) *w = *w * 10 + (*p - '0');
    return p;
}

/* The number at p, whose line ends before `end` with a byte that belongs to no number. Returns the byte after it, or p where
   this is not for the fast way. */
static inline const unsigned char *fo_number(const unsigned char *p, const unsigned char *end, double *x) {
    const unsigned char *begin = p, *digits, *point = NULL;
    int negative = *p == '-', q = 0;
    int64_t n;
    uint64_t w = 0;
    p += negative | (*p == '+');
    digits = p;
    if (fo_is_digit(*p) && p[1] == '.') w = (uint64_t)(*p++ - '0');     /* most often */
    else p = fo_digits(p, end, &w);
    n = p - digits;
    if (*p == '.') {
        point = ++p;
        p = fo_digits(p, end, &w);
        n += p - point;
        q = point - p < FO_POWER_LEAST ? FO_POWER_LEAST - 1 : (int)(point - p);
    }
    if (n == 0) return begin;
    if (n > 19) {       /* too many, unless those at the front are zeros */
        for (; *digits == '0' || *digits == '.'; digits++) n -= *digits == '0';
        if (n > 19) return begin;
    }
    if ((*p | 0x20) == 'e') {
        int down = p[1] == '-', e = 0;
        p += 1 + (down | (p[1] == '+'));
        if (!fo_is_digit(*p)) return begin;
        for (; fo_is_digit(*p); p++) if (e < 1000) e = e * 10 + (*p - '0');
        q += down ? -e : e;
    }
    if (q < FO_POWER_LEAST || q > FO_POWER_MOST) return begin;
    *x = fo_scaled(w, q, negative);
    return p;
}

#endif
