/* Rows for training: the vector tables against the scalar one, and the scalar one against
 * differences of what it is the derivative of. */
#include "engine/kernels/grad.h"
#include "tests/engine/kernels/tables.h"

static const struct kernels *all[TABLES_MAX];
static int n_all;

static void setup(void)
{
    n_all = tables(all);
}

static const size_t lengths[] = {1, 3, 7, 8, 9, 15, 16, 17, 33, 64, 100, 384, 1000};
#define LENGTHS (sizeof lengths / sizeof lengths[0])
enum { ARRAYS = 4 };

/* Four arrays for a call of `which` in two tables; what it leaves in them must agree. */
static void call(const struct grad_kernels *g, int which, float *a[ARRAYS], const float *x,
                 const float *y, size_t n)
{
    static const struct adamw adamw = {.lr = 0.01F,
                                       .beta1 = 0.9F,
                                       .beta2 = 0.95F,
                                       .correction1 = 10,
                                       .correction2 = 20,
                                       .eps = 1e-8F,
                                       .decay = 1e-3F,
                                       .grad_scale = 0.7F};
    switch (which) {
    case 0:
        g->add(a[0], x, n);
        break;
    case 1:
        g->add_scaled(a[0], 0.3F, x, n);
        break;
    case 2:
        g->add_two(a[0], x, y, n);
        break;
    case 3:
        g->scale(a[0], -1.5F, n);
        break;
    case 4:
        g->layer_norm_backward(a[0], a[1], a[2], a[3], x, y, 1e-5F, n);
        break;
    case 5:
        g->softmax_backward(a[0], x, 0.3F, 0.125F, n);
        break;
    case 6:
        for (size_t i = 0; i < n; i++)
            a[2][i] = fabsf(a[2][i]);
        g->adamw(a[0], x, a[1], a[2], n, &adamw);
        break;
    default:
        g->bias_act(a[0], a[1], x, n, (enum act)(which & 3));
        g->act_backward(a[2], y, n, (enum act)(which & 3));
    }
}
enum { CALLS = 12 };

START_TEST(tables_agree)
{
    const struct grad_kernels *ref = grad_kernels(kernels_scalar());
    for (int t = 0; t < n_all; t++)
        for (size_t l = 0; l < LENGTHS; l++)
            for (int which = 0; which < CALLS; which++) {
                size_t n = lengths[l];
                float *a[ARRAYS], *b[ARRAYS], *x = floats(n, 8), *y = floats(n, 9);
                for (int i = 0; i < ARRAYS; i++) {
                    a[i] = floats(n, (uint64_t)i);
                    b[i] = floats(n, (uint64_t)i);
                }
                call(ref, which, a, x, y, n);
                call(grad_kernels(all[t]), which, b, x, y, n);
                for (int i = 0; i < ARRAYS; i++) {
                    for (size_t j = 0; j < n; j++)
                        ck_assert_msg(fabsf(a[i][j] - b[i][j]) <= 2e-5F + 1e-5F * fabsf(a[i][j]),
                                      "%s call %d array %d [%zu of %zu]: %.9g, not %.9g",
                                      all[t]->name, which, i, j, n, (double)b[i][j],
                                      (double)a[i][j]);
                    free(a[i]);
                    free(b[i]);
                }
                assert_close(grad_kernels(all[t])->sum_squares(x, n), ref->sum_squares(x, n), 0,
                             1e-6);
                free(x);
                free(y);
            }
}
END_TEST

START_TEST(slopes_are_those_of_the_activations)
{
    enum { N = 2001 };
    static float pre[N], d[N];
    for (int t = 0; t < n_all; t++)
        for (int act = ACT_GELU_NEW; act <= ACT_GELU_ERF; act++) {
            for (int j = 0; j < N; j++) {
                pre[j] = (float)(j - N / 2) * 0.012F;
                d[j] = 1;
            }
            grad_kernels(all[t])->act_backward(d, pre, N, (enum act)act);
            for (int j = 0; j < N; j++) {
                double h = 1e-5, f[2];
                for (int s = 0; s < 2; s++) {
                    double x = (double)pre[j] + (s ? h : -h);
                    f[s] = act == ACT_GELU_NEW
                               ? 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))
                               : 0.5 * x * erfc(-x / sqrt(2));
                }
                ck_assert_msg(fabs((double)d[j] - (f[1] - f[0]) / (2 * h)) < 2e-6,
                              "%s act %d at %g: %.9g, not %.9g", all[t]->name, act, (double)pre[j],
                              (double)d[j], (f[1] - f[0]) / (2 * h));
            }
        }
}
END_TEST

START_TEST(slopes_at_the_ends)
{
    float pre[] = {50, -50, 1e30F, -1e30F, 0, 2, -2};
    for (int t = 0; t < n_all; t++)
        for (int act = ACT_GELU_NEW; act <= ACT_RELU; act++) {
            float d[] = {1, 1, 1, 1, 1, 1, 1};
            size_t n = act == ACT_RELU || all[t] != kernels_scalar() ? 7 : 2;
            grad_kernels(all[t])->act_backward(d, pre, n, (enum act)act);
            ck_assert(d[0] == 1 && d[1] == 0);
            if (n == 7) ck_assert(d[2] == 1 && d[3] == 0);
            if (act == ACT_RELU) ck_assert(d[4] == 0 && d[5] == 1 && d[6] == 0);
        }
}
END_TEST

static double norm_sum(const double *x, const double *w, const double *b, const double *c, size_t n)
{
    double mean = 0, var = 0, s = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        s += c[i] * ((x[i] - mean) / sqrt(var + 1e-5) * w[i] + b[i]);
    return s;
}

START_TEST(layer_norm_gradient_is_that_of_differences)
{
    enum { N = 19 };
    float *in[3], *dy = floats(N, 5);
    double v[4][N];
    for (int i = 0; i < 3; i++)
        in[i] = floats(N, (uint64_t)i);
    for (int t = 0; t < n_all; t++) {
        float g[3][N] = {{0}};
        grad_kernels(all[t])->layer_norm_backward(g[0], g[1], g[2], dy, in[0], in[1], 1e-5F, N);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < N; j++) {
                double f[2], h = 1e-5;
                for (int s = 0; s < 2; s++) {
                    for (int k = 0; k < N; k++) {
                        for (int a = 0; a < 3; a++)
                            v[a][k] = (double)in[a][k];
                        v[3][k] = (double)dy[k];
                    }
                    v[i][j] += s ? h : -h;
                    f[s] = norm_sum(v[0], v[1], v[2], v[3], N);
                }
                assert_close(g[i][j], (f[1] - f[0]) / (2 * h), 1e-5, 1e-5);
            }
    }
    for (int i = 0; i < 3; i++)
        free(in[i]);
    free(dy);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("grad");
    TCase *t = tcase_create("grad");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, tables_agree);
    tcase_add_test(t, slopes_are_those_of_the_activations);
    tcase_add_test(t, slopes_at_the_ends);
    tcase_add_test(t, layer_norm_gradient_is_that_of_differences);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
