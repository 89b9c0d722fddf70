#ifndef TTMD_SERVER_METRICS_TEXT_H
#define TTMD_SERVER_METRICS_TEXT_H

#include "engine/base/buf.h"

struct server;

/* metric_head -- the HELP and TYPE lines of ttmd_<name>. */
void metric_head(struct buf *b, const char *name, const char *type, const char *help);
/* metric_sample -- ttmd_<name><suffix>{labels} value; labels "" none, already escaped. */
void metric_sample(struct buf *b, const char *name, const char *suffix, const char *labels,
                   double value);
/* metric_label -- append key="value" with the value escaped. */
void metric_label(struct buf *b, const char *key, const char *value);

struct served;
void metrics_write_server(struct server *s, const struct served *m,
                          struct buf *b);  /* state, engine, model */
void metrics_write_process(struct buf *b); /* process_* */

#endif
