#ifndef TTMD_SERVER_STREAM_H
#define TTMD_SERVER_STREAM_H

struct MHD_Response;
struct request;

/* stream_response -- a response whose body is the request's event stream; holds a reference. NULL when
 * out of memory. HTTP thread. */
struct MHD_Response *stream_response(struct request *r);

#endif
