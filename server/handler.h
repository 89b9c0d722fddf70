#ifndef TTMD_SERVER_HANDLER_H
#define TTMD_SERVER_HANDLER_H

#include <microhttpd.h>

/* MHD's callbacks; cls is the struct server. */
enum MHD_Result handler_access(void *cls, struct MHD_Connection *conn, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **con_cls);
void handler_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                       enum MHD_RequestTerminationCode toe);

#endif
