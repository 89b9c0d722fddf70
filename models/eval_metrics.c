/* Accuracy, F1 and MCC from a table of four numbers: what GLUE's tasks are judged by. Undefined cases (a
 * class that never occurs or is never predicted) are 0, as in scikit-learn. */
#include "models/eval_metrics.h"

#include <math.h>

double proportion_stderr(size_t k, size_t n)
{
    if (n < 2) return 0;
    double p = (double)k / (double)n;
    return sqrt(p * (1 - p) / (double)(n - 1));
}

void binary_metrics(const struct binary_counts *c, struct binary_metrics *out)
{
    double tn = (double)c->counts[0][0], fp = (double)c->counts[0][1];
    double fn = (double)c->counts[1][0], tp = (double)c->counts[1][1];
    double n = tn + fp + fn + tp;
    *out = (struct binary_metrics){0};
    if (n == 0) return;
    size_t right = c->counts[0][0] + c->counts[1][1];
    out->n = (size_t)n;
    out->accuracy = (double)right / n;
    out->accuracy_stderr = proportion_stderr(right, out->n);
    out->majority = fmax(tn + fp, fn + tp) / n;
    if (2 * tp + fp + fn > 0) out->f1 = 2 * tp / (2 * tp + fp + fn);
    double product = sqrt(tp + fp) * sqrt(tp + fn) * sqrt(tn + fp) * sqrt(tn + fn);
    if (product > 0) out->mcc = (tp * tn - fp * fn) / product;
}
