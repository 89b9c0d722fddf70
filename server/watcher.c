/* MHD does not read from a suspended connection, so it never notices that its client is gone, and its
 * timeouts are inactivity timers that one byte an hour keeps alive. This thread watches instead.
 *
 *   disconnect   epoll for EPOLLRDHUP | EPOLLHUP | EPOLLERR, edge-triggered, confirmed by a peek. A client
 *                that sends FIN counts as gone, although it might still read: no HTTP client in use half-closes
 *                and waits, and an abandoned computation is the commoner case by far. Bytes of a next
 *                (pipelined) request are no reason to cancel: EPOLLIN is not asked for.
 *   slow header  the connection ends: nothing has asked for an answer yet
 *   crowd        near max_connections MHD would soon accept no more, and probes would wait: connections
 *                without a request end sooner, those that have waited longest first
 *   slow upload  408 written to the socket directly: MHD takes no answer in mid-upload
 *   silence      a comment line in a stream that has sent nothing for ping_interval_s
 *   lingering    see watcher_linger(); the duplicates live in the same epoll set
 *
 * Events carry a request's serial number, not its address: one that was fetched before the request was
 * removed finds nothing. Everything here is under the registry's lock; lock order: registry, request. */
#include "server/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/headers.h"
#include "server/request.h"

#define LINGER_MAX 128
/* Connections: libmicrohttpd closes all that have ended before it looks at others. */
#define END_AT_ONCE 16
/* What a connection gets for its header in a crowd. */
#define CROWD_NS (250 * CLOCK_NS_PER_MS)
#define LINGER_NS (2 * CLOCK_NS_PER_S)
#define TAG_WAKE 0ull
#define TAG_LINGER (1ull << 63) /* | index */

/* One on which no whole header has come is in the list, oldest first: they all wait equally long. */
struct connection {
    struct connection *prev, *next;
    int fd;
    bool listed, ended;
    uint64_t since_ns;
};

struct watcher {
    struct server *srv;
    pthread_t thread;
    pthread_mutex_t lock;
    int epoll_fd, event_fd;
    bool stop;
    struct request *head;
    struct connection *oldest, *newest;
    int64_t n_open;   /* connections but for those that we have ended and MHD has not closed yet */
    uint64_t wake_at; /* when the thread looks again by itself; 0 = never */
    struct {
        int fd; /* -1 free */
        uint64_t until_ns;
    } linger[LINGER_MAX];
};

static void wake(struct watcher *w)
{
    uint64_t one = 1;
    if (write(w->event_fd, &one, sizeof one) < 0) return; /* full counter: it is awake already */
}

static void want_look(struct watcher *w, uint64_t at)
{
    if (w->wake_at && w->wake_at <= at) return;
    w->wake_at = at;
    wake(w);
}

static uint64_t ns_of(double seconds)
{
    return seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
}

/* ---- connections ---- */

static void unlist(struct watcher *w, struct connection *c)
{
    if (!c->listed) return;
    c->listed = false;
    *(c->prev ? &c->prev->next : &w->oldest) = c->next;
    *(c->next ? &c->next->prev : &w->newest) = c->prev;
}

/* A tenth of the connections is kept free for those who come. */
static bool is_crowd(const struct watcher *w)
{
    int64_t most = w->srv->cfg->max_connections;
    int64_t many = most - (most + 9) / 10;
    return w->n_open > (many > 1 ? many : 1);
}

static uint64_t patience(const struct watcher *w)
{
    uint64_t wait = ns_of(w->srv->cfg->idle_timeout_s);
    return is_crowd(w) && wait > CROWD_NS ? CROWD_NS : wait;
}

static void list(struct watcher *w, struct connection *c)
{
    if (c->listed || c->ended) return;
    c->listed = true;
    c->since_ns = clock_ns();
    c->prev = w->newest;
    c->next = NULL;
    *(c->prev ? &c->prev->next : &w->oldest) = c;
    w->newest = c;
    want_look(w, w->oldest->since_ns + patience(w));
}

struct connection *watcher_opened(struct watcher *w, int fd)
{
    struct connection *c = mem_calloc(1, sizeof *c);
    c->fd = fd;
    pthread_mutex_lock(&w->lock);
    w->n_open++;
    list(w, c);
    pthread_mutex_unlock(&w->lock);
    return c;
}

void watcher_busy(struct watcher *w, struct connection *c)
{
    pthread_mutex_lock(&w->lock);
    unlist(w, c);
    pthread_mutex_unlock(&w->lock);
}

void watcher_idle(struct watcher *w, struct connection *c)
{
    pthread_mutex_lock(&w->lock);
    list(w, c);
    pthread_mutex_unlock(&w->lock);
}

void watcher_closed(struct watcher *w, struct connection *c)
{
    pthread_mutex_lock(&w->lock);
    unlist(w, c);
    w->n_open -= !c->ended;
    pthread_mutex_unlock(&w->lock);
    free(c);
}

static void end(struct watcher *w, struct connection *c)
{
    shutdown(c->fd, SHUT_RDWR);
    unlist(w, c);
    c->ended = true;
    w->n_open--;
}

/* End what has waited too long, a few at a time; when to look again, 0 = no need. */
static uint64_t check_connections(struct watcher *w, uint64_t now)
{
    for (int i = 0; i < END_AT_ONCE && w->oldest && w->oldest->since_ns + patience(w) <= now; i++)
        end(w, w->oldest);
    if (!w->oldest) return 0;
    uint64_t next = w->oldest->since_ns + patience(w);
    return next > now ? next : now + CLOCK_NS_PER_MS;
}

/* ---- requests ---- */

void watcher_add(struct watcher *w, struct request *r)
{
    const struct config *cfg = w->srv->cfg;
    pthread_mutex_lock(&w->lock);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = r->serial};
    r->registered = true;
    r->next = w->head;
    if (w->head) w->head->prev = r;
    w->head = r;
    if (r->fd >= 0 && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, r->fd, &ev)) r->fd = -1;
    uint64_t soon = ns_of(cfg->upload_timeout_s);
    uint64_t ping = ns_of(cfg->ping_interval_s);
    if (ping && (!soon || ping < soon)) soon = ping;
    if (soon) want_look(w, r->start_ns + soon);
    pthread_mutex_unlock(&w->lock);
}

void watcher_remove(struct watcher *w, struct request *r)
{
    pthread_mutex_lock(&w->lock);
    if (r->registered) {
        r->registered = false;
        if (r->prev)
            r->prev->next = r->next;
        else
            w->head = r->next;
        if (r->next) r->next->prev = r->prev;
        if (r->fd >= 0) epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, r->fd, NULL);
    }
    pthread_mutex_unlock(&w->lock);
}

static bool is_gone(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n >= 0) return true; /* the end, or a next request with the end behind it */
    return errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
}

/* The edge of a FIN that came with the body is reported once, perhaps before the request is with the
 * worker; MHD looks after uploads, so then nothing is done yet, but the end is remembered by cancelling: a
 * client that ended its side of an unfinished upload cannot finish it. */
static void on_hangup(struct watcher *w, uint64_t serial)
{
    for (struct request *r = w->head; r; r = r->next)
        if (r->serial == serial) {
            if (r->fd >= 0 && is_gone(r->fd)) request_cancel(r, CANCEL_GONE);
            return;
        }
}

static void linger_close(struct watcher *w, size_t i)
{
    close(w->linger[i].fd); /* the only descriptor left: leaves the epoll set with it */
    w->linger[i].fd = -1;
}

static void on_linger(struct watcher *w, size_t i)
{
    char waste[16384];
    if (i >= LINGER_MAX || w->linger[i].fd < 0) return;
    for (int round = 0; round < 16; round++) {
        ssize_t n = recv(w->linger[i].fd, waste, sizeof waste, MSG_DONTWAIT);
        if (n > 0) continue;
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        linger_close(w, i);
        return;
    }
}

void watcher_linger(struct watcher *w, int fd)
{
    pthread_mutex_lock(&w->lock);
    size_t i = 0;
    while (i < LINGER_MAX && w->linger[i].fd >= 0)
        i++;
    int copy = i < LINGER_MAX ? dup(fd) : -1;
    if (copy >= 0) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = TAG_LINGER | i};
        w->linger[i].fd = copy;
        w->linger[i].until_ns = clock_ns() + LINGER_NS;
        if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, copy, &ev))
            linger_close(w, i);
        else
            want_look(w, w->linger[i].until_ns);
    }
    pthread_mutex_unlock(&w->lock);
}

static void put_line(void *head, const char *name, const char *value)
{
    buf_printf(head, "%s: %s\r\n", name, value);
}

static void answer_408(struct watcher *w, struct request *r)
{
    struct api_error e = {0};
    struct reply reply = {0};
    struct buf head = {0};
    api_fail(&e, API_REQUEST_TIMEOUT, NULL, "the request was not received within %.1f s",
             w->srv->cfg->upload_timeout_s);
    reply_error(r, &reply, &e);
    buf_puts(&head, "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n");
    headers_put(r, false, put_line, &head);
    buf_printf(&head, "Connection: close\r\nContent-Length: %zu\r\n\r\n", reply.body.len);
    buf_append(&head, reply.body.data, reply.body.len);
    r->state = REQ_DEAD;
    r->status = 408;
    /* A fresh socket's buffer takes a few hundred bytes; a client that lets even that fill gets none. */
    if (w->srv->tls) /* plain bytes would be a broken record: the connection just ends */
        r->status = 0;
    else if (send(r->fd, head.data, head.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        r->status = 0;
    shutdown(r->fd, SHUT_RDWR);
    buf_release(&reply.body);
    buf_release(&head);
}

/* What time has done to a request; returns when to look again, 0 = no need. */
static uint64_t check_one(struct watcher *w, struct request *r, uint64_t now)
{
    const struct config *cfg = w->srv->cfg;
    uint64_t next = 0;
    pthread_mutex_lock(&r->lock);
    if (r->state == REQ_UPLOAD && cfg->upload_timeout_s > 0) {
        next = r->start_ns + ns_of(cfg->upload_timeout_s);
        if (next <= now) {
            next = 0;
            if (r->fd >= 0) answer_408(w, r);
        }
    } else if (r->state != REQ_DEAD && r->state != REQ_REPLIED && cfg->ping_interval_s > 0) {
        uint64_t interval = ns_of(cfg->ping_interval_s);
        next = r->last_out_ns + interval;
        if (next <= now) {
            next = now + interval;
            if (r->state == REQ_STREAM && r->suspended) {
                r->want_ping = true;
                request_wake_locked(r);
            }
        }
    }
    pthread_mutex_unlock(&r->lock);
    return next;
}

static void check_all(struct watcher *w)
{
    uint64_t now = clock_ns(), soonest = check_connections(w, now);
    for (struct request *r = w->head; r; r = r->next) {
        uint64_t next = check_one(w, r, now);
        if (next && (!soonest || next < soonest)) soonest = next;
    }
    for (size_t i = 0; i < LINGER_MAX; i++) {
        if (w->linger[i].fd < 0) continue;
        uint64_t until = w->linger[i].until_ns;
        if (until <= now)
            linger_close(w, i);
        else if (!soonest || until < soonest)
            soonest = until;
    }
    w->wake_at = soonest;
}

static int timeout_ms(const struct watcher *w)
{
    if (!w->wake_at) return -1;
    uint64_t now = clock_ns();
    if (w->wake_at <= now) return 0;
    uint64_t ms = (w->wake_at - now) / CLOCK_NS_PER_MS + 1;
    return ms > 60000 ? 60000 : (int)ms;
}

static void *watcher_main(void *arg)
{
    struct watcher *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        struct epoll_event ev[64];
        int wait = timeout_ms(w);
        pthread_mutex_unlock(&w->lock);
        int n = epoll_wait(w->epoll_fd, ev, 64, wait);
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < n; i++) {
            uint64_t tag = ev[i].data.u64, count;
            if (tag == TAG_WAKE) {
                if (read(w->event_fd, &count, sizeof count) < 0) continue;
            } else if (tag & TAG_LINGER) {
                on_linger(w, (size_t)(tag & ~TAG_LINGER));
            } else {
                on_hangup(w, tag);
            }
        }
        if (w->wake_at && w->wake_at <= clock_ns()) check_all(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void watcher_cancel_all(struct watcher *w)
{
    pthread_mutex_lock(&w->lock);
    for (struct request *r = w->head; r; r = r->next)
        request_cancel(r, CANCEL_SHUTDOWN);
    pthread_mutex_unlock(&w->lock);
}

void watcher_wake_all(struct watcher *w)
{
    pthread_mutex_lock(&w->lock);
    for (struct request *r = w->head; r; r = r->next) {
        pthread_mutex_lock(&r->lock);
        request_wake_locked(r);
        pthread_mutex_unlock(&r->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

int watcher_start(struct watcher **out, struct server *s, struct err *err)
{
    struct watcher *w = mem_calloc(1, sizeof *w);
    w->srv = s;
    for (size_t i = 0; i < LINGER_MAX; i++)
        w->linger[i].fd = -1;
    pthread_mutex_init(&w->lock, NULL);
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = TAG_WAKE};
    int rc = -1;
    if (w->epoll_fd >= 0 && w->event_fd >= 0 &&
        epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->event_fd, &ev) == 0)
        rc = thread_start(&w->thread, watcher_main, w, "watcher");
    if (rc == 0) {
        *out = w;
        return 0;
    }
    err_set(err, ERR_IO, "cannot start the watcher thread: %s", strerror(rc > 0 ? rc : errno));
    if (w->epoll_fd >= 0) close(w->epoll_fd);
    if (w->event_fd >= 0) close(w->event_fd);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return ERR_IO;
}

void watcher_stop(struct watcher *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    wake(w);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    for (size_t i = 0; i < LINGER_MAX; i++)
        if (w->linger[i].fd >= 0) linger_close(w, i);
    close(w->epoll_fd);
    close(w->event_fd);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
