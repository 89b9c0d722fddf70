#ifndef TTMD_SERVER_WATCHER_H
#define TTMD_SERVER_WATCHER_H

#include <stdbool.h>

#include "engine/base/err.h"

struct request;
struct server;
struct watcher;

/* The thread that looks after requests in flight: clients that went away, uploads that take too long,
 * streams that are silent. Costs nothing while there is nothing to watch. */
int watcher_start(struct watcher **out, struct server *s, struct err *err);
void watcher_stop(struct watcher *w); /* no request may be registered any more */

/* Connections on which no whole header has come: one that stays so for idle_timeout_s is closed, whatever
 * bytes keep dripping in; while more than nine tenths of max_connections are open, the oldest sooner. All by
 * the HTTP thread. Opened: waits for its first header, the context is watcher's until closed. Busy: the
 * header is there. Idle: answered, the next may come. */
struct connection;
struct connection *watcher_opened(struct watcher *w, int fd);
void watcher_busy(struct watcher *w, struct connection *c);
void watcher_idle(struct watcher *w, struct connection *c);
void watcher_closed(struct watcher *w, struct connection *c); /* before the fd is closed */

void watcher_add(struct watcher *w, struct request *r); /* HTTP thread; r->fd is set */
void watcher_remove(struct watcher *w,
                    struct request *r); /* HTTP thread, before the fd is closed */

/* watcher_cancel_all -- every request in flight ends with 503 shutting_down. */
void watcher_cancel_all(struct watcher *w);
/* watcher_wake_all -- resume every suspended connection (none suspends again once s->stopping). */
void watcher_wake_all(struct watcher *w);

/* watcher_linger -- the connection of fd is about to be closed with part of the request unread, which would
 * reset it and may cost the client our answer. Keeps a duplicate open and swallows what still comes,
 * for a short while. */
void watcher_linger(struct watcher *w, int fd);

#endif
