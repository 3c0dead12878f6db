/* Matrix-vector product for one token that skips the columns of W that meet zeros. Exported as spon.c. */

#include <stdint.h>
#include <string.h>
#ifdef BF16
typedef uint16_t number;
static inline float in(number v) { uint32_t bits = (uint32_t)v << 16; float f; memcpy(&f, &bits, 4); return f; }
static inline number out(float f) {
    uint32_t bits; memcpy(&bits, &f, 4); return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}
#else
typedef float number;
#define in(v) (v)
#define out(f) (f)
#endif

/* y = W x + b: columns holds those of W (n_in, n_out). Adds eight at once and prefetches the next eight.
   sum (n_out) and kept (n_in) are scratch. */
void product(const number *x, const number *columns, const number *b, number *y, float *sum, int32_t *kept,
             long n_in, long n_out, int threads) {
    long n = 0, part = ((n_out + threads - 1) / threads + 63) / 64 * 64;
    for (long j = 0; j < n_in; j++) { kept[n] = (int32_t)j; n += in(x[j]) != 0; }
    #pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        long from = t * part, to = from + part < n_out ? from + part : n_out, k = 0;
        for (long o = from; o < to; o++) sum[o] = b ? in(b[o]) : 0;
        for (; k + 8 <= n; k += 8) {
            const number *c[8]; float v[8];
            for (int g = 0; g < 8; g++) { c[g] = columns + kept[k + g] * n_out; v[g] = in(x[kept[k + g]]); }
            for (int g = 8; g < 16 && k + g < n; g++)
                for (int line = 0; line < 4; line++)
                    __builtin_prefetch((const char *)(columns + kept[k + g] * n_out + from) + 64 * line);
            for (long o = from; o < to; o++)
                sum[o] += v[0] * in(c[0][o]) + v[1] * in(c[1][o]) + v[2] * in(c[2][o]) + v[3] * in(c[3][o])
                        + v[4] * in(c[4][o]) + v[5] * in(c[5][o]) + v[6] * in(c[6][o]) + v[7] * in(c[7][o]);
        }
        for (; k < n; k++)
            for (long o = from; o < to; o++) sum[o] += in(x[kept[k]]) * in(columns[kept[k] * n_out + o]);
        for (long o = from; o < to; o++) y[o] = out(sum[o]);
    }
}
