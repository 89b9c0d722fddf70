#ifndef TTMD_SERVER_ACCESSLOG_H
#define TTMD_SERVER_ACCESSLOG_H

struct request;

/* access_log -- one line and the counters of a request whose life ends here. */
void access_log(struct request *r);

#endif
