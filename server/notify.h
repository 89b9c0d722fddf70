#ifndef TTMD_SERVER_NOTIFY_H
#define TTMD_SERVER_NOTIFY_H

/* notify_send -- tell the service manager a change of state ("READY=1", "STOPPING=1"; lines).
 *
 *   path   $NOTIFY_SOCKET: a datagram socket's path, or a name after '@' in the abstract space; NULL or
 *          empty: nobody wants to know
 *
 * Errors  none: 0 when it was sent or nobody wants to know, -1 with errno else; the daemon goes on.
 * Thread  any.
 */
int notify_send(const char *path, const char *state);

#endif
