/* MurmurHash3_x86_32 (Austin Appleby, in the public domain), piece by piece. */
#ifndef FO_MURMUR_H
#define FO_MURMUR_H

#include <stddef.h>
#include <stdint.h>

#include "fo_bytes.h"

typedef struct {
    uint32_t hash;      /* of the whole words so far */
    uint32_t held;      /* fewer than four bytes that wait for more, the first lowest */
    uint32_t bytes;     /* all so far, modulo 2^32 as in the original */
} fo_murmur;

static inline uint32_t fo_rotate(uint32_t x, int bits) { return x << bits | x >> (32 - bits); }

static inline uint32_t fo_murmur_scramble(uint32_t word) { return fo_rotate(word * 0xCC9E2D51u, 15) * 0x1B873593u; }

static inline fo_murmur fo_murmur_begin(uint32_t seed) {
    fo_murmur m = {seed, 0, 0};
    return m;
}

/* Go on with n bytes. */
static inline void fo_murmur_more(fo_murmur *m, const unsigned char *at, size_t n) {
    uint32_t h = m->hash;
    uint64_t held = m->held;
    int bits = 8 * (int)(m->bytes & 3);
    m->bytes += (uint32_t)n;
    for (; n >= 4; n -= 4, at += 4) {
        held |= (uint64_t)fo_four(at) << bits;
        h = fo_rotate(h ^ fo_murmur_scramble((uint32_t)held), 13) * 5u + 0xE6546B64u;
        held >>= 32;
    }
    for (; n; n--) {
        held |= (uint64_t)*at++ << bits;
        bits += 8;
    }
    if (bits >= 32) {
        h = fo_rotate(h ^ fo_murmur_scramble((uint32_t)held), 13) * 5u + 0xE6546B64u;
        held >>= 32;
    }
    m->hash = h, m->held = (uint32_t)held;
}

/* The hash of all bytes so far; `m` is as before. */
static inline uint32_t fo_murmur_end(const fo_murmur *m) {
    uint32_t h = (m->hash ^ fo_murmur_scramble(m->held)) ^ m->bytes;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

#endif
