/* Which model is current, and which live besides. A reference may be dropped anywhere, also on the thread of
 * the very engine it keeps, which cannot close itself; so the last one only moves the model to a list and
 * wakes the loader, whose thread closes it.
 *
 * One lock for all: it is taken a few times a request and held for a few instructions. */
#include "server/served.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "server/loader.h"
#include "server/server.h"

struct served_set {
    pthread_mutex_t lock;
    struct served *current;     /* the set's own reference */
    struct served *live;        /* all with references */
    struct served *retired;     /* without, not yet closed */
    struct engine_stats closed; /* counters of those closed */
};

struct served_set *served_set_new(void)
{
    struct served_set *s = mem_calloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void served_set_free(struct served_set *s)
{
    if (!s) return;
    BUG_ON(s->live || s->retired);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void swap_current(struct server *srv, struct served *new)
{
    struct served_set *set = srv->models;
    pthread_mutex_lock(&set->lock);
    struct served *old = set->current;
    set->current = new;
    if (new) {
        new->next = set->live;
        set->live = new;
    }
    atomic_store(&srv->loaded, new != NULL);
    pthread_mutex_unlock(&set->lock);
    served_unref(old);
}

void served_publish(struct server *srv, struct engine *engine)
{
    struct served *m = mem_calloc(1, sizeof *m);
    m->engine = engine;
    m->srv = srv;
    snprintf(m->fingerprint, sizeof m->fingerprint, "fp_%016llx",
             (unsigned long long)engine_info(engine)->fingerprint);
    atomic_init(&m->refs, 1);
    swap_current(srv, m);
}

void served_withdraw(struct server *srv)
{
    swap_current(srv, NULL);
}

struct served *served_take(struct server *srv)
{
    pthread_mutex_lock(&srv->models->lock);
    struct served *m = srv->models->current;
    if (m) atomic_fetch_add(&m->refs, 1);
    pthread_mutex_unlock(&srv->models->lock);
    return m;
}

static void unlink_from(struct served **list, struct served *m)
{
    while (*list != m)
        list = &(*list)->next;
    *list = m->next;
}

void served_unref(struct served *m)
{
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    struct served_set *set = m->srv->models;
    struct loader *loader = m->srv->loader; /* m may be closed as soon as it is on the list */
    pthread_mutex_lock(&set->lock);
    unlink_from(&set->live, m);
    m->next = set->retired;
    set->retired = m;
    pthread_mutex_unlock(&set->lock);
    loader_wake(loader);
}

static void add_counters(struct engine_stats *to, const struct engine_stats *s)
{
    to->prompt_tokens_computed += s->prompt_tokens_computed;
    to->prompt_tokens_cached += s->prompt_tokens_cached;
    to->generated_tokens += s->generated_tokens;
    to->scored_tokens += s->scored_tokens;
    to->steps += s->steps;
    to->prefix_lookup_tokens += s->prefix_lookup_tokens;
    to->drafted_tokens += s->drafted_tokens;
    to->accepted_tokens += s->accepted_tokens;
}

bool served_live(struct server *srv)
{
    pthread_mutex_lock(&srv->models->lock);
    bool live = srv->models->live != NULL;
    pthread_mutex_unlock(&srv->models->lock);
    return live;
}

struct served *served_retired(struct server *srv)
{
    struct engine_stats last;
    pthread_mutex_lock(&srv->models->lock);
    struct served *m = srv->models->retired;
    if (m) {
        srv->models->retired = m->next;
        engine_stats(m->engine, &last); /* it has no job any more: these are final */
        add_counters(&srv->models->closed, &last);
    }
    pthread_mutex_unlock(&srv->models->lock);
    return m;
}

void served_close(struct served *m)
{
    engine_close(m->engine);
    free(m);
}

void served_stats(struct server *srv, struct engine_stats *out)
{
    struct served_set *set = srv->models;
    pthread_mutex_lock(&set->lock);
    *out = set->closed;
    for (int list = 0; list < 2; list++)
        for (struct served *m = list ? set->retired : set->live; m; m = m->next) {
            struct engine_stats s;
            engine_stats(m->engine, &s);
            add_counters(out, &s);
            out->running += s.running;
            out->waiting += s.waiting;
            out->jobs_max += s.jobs_max;
            out->kv_blocks += s.kv_blocks;
            out->kv_blocks_used += s.kv_blocks_used;
            out->prefix_cached_blocks += s.prefix_cached_blocks;
        }
    pthread_mutex_unlock(&set->lock);
}
