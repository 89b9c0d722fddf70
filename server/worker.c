/* The worker: one thread, one queue, first in, first out. One is enough: a request costs it far less than
 * the engine, and with one no two threads ever work on the same request. The queue is linked through
 * the requests themselves and allocates nothing. */
#include "server/worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/request.h"

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct request *head, *tail;
    bool stop;
};

static struct request *pop(struct worker *w)
{
    struct request *r = w->head;
    w->head = r->work_next;
    if (!w->head) w->tail = NULL;
    r->work_next = NULL;
    r->work_queued = false;
    return r;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->head && !w->stop)
            pthread_cond_wait(&w->more, &w->lock);
        if (w->stop) break;
        struct request *r = pop(w);
        pthread_mutex_unlock(&w->lock);
        jobs_work(r);
        request_unref(r);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void worker_push(struct worker *w, struct request *r)
{
    pthread_mutex_lock(&w->lock);
    if (!r->work_queued) {
        r->work_queued = true;
        request_ref(r);
        if (w->tail)
            w->tail->work_next = r;
        else
            w->head = r;
        w->tail = r;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
}

int worker_start(struct worker **out, struct err *err)
{
    struct worker *w = mem_calloc(1, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    int rc = thread_start(&w->thread, worker_main, w, "worker");
    if (rc) {
        pthread_cond_destroy(&w->more);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return err_set(err, ERR_IO, "cannot start the worker thread: %s", strerror(rc));
    }
    *out = w;
    return 0;
}

void worker_stop(struct worker *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    while (w->head)
        request_unref(pop(w));
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
