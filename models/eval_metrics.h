#ifndef TTMD_MODELS_EVAL_METRICS_H
#define TTMD_MODELS_EVAL_METRICS_H

#include <stddef.h>

/* Quality of a classifier with two classes; class 1 is the positive one. */
struct binary_counts {
    size_t counts[2][2]; /* [truth][prediction] */
};
static inline void binary_add(struct binary_counts *c, int truth, int prediction)
{
    c->counts[truth][prediction]++;
}

struct binary_metrics {
    size_t n;
    double accuracy, accuracy_stderr;
    double f1;       /* of the positive class: 2 TP / (2 TP + FP + FN); 0 when undefined */
    double mcc;      /* Matthews correlation coefficient, -1..1; 0 when undefined */
    double majority; /* accuracy of always saying the more frequent class */
};
void binary_metrics(const struct binary_counts *c, struct binary_metrics *out);

/* proportion_stderr -- standard error of a proportion k / n, with n - 1; 0 for n < 2. */
double proportion_stderr(size_t k, size_t n);

#endif
