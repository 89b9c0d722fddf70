/* The text format (0.0.4) and the gauges that are read when somebody asks: state, engine, process. */
#include "server/metrics_text.h"

#include <dirent.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/version.h"
#include "server/served.h"
#include "server/server.h"

void metric_head(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_printf(b, "# HELP ttmd_%s %s\n# TYPE ttmd_%s %s\n", name, help, name, type);
}

void metric_sample(struct buf *b, const char *name, const char *suffix, const char *labels,
                   double value)
{
    buf_printf(b, *labels ? "ttmd_%s%s{%s} %.17g\n" : "ttmd_%s%s%s %.17g\n", name, suffix, labels,
               value);
}

void metric_label(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "%s%s=\"", b->len ? "," : "", key);
    for (const char *p = value ? value : ""; *p; p++) {
        if (*p == '"' || *p == '\\') buf_putc(b, '\\');
        if (*p == '\n')
            buf_puts(b, "\\n");
        else
            buf_putc(b, *p);
    }
    buf_putc(b, '"');
}

static void gauge(struct buf *b, const char *name, const char *help, double v)
{
    metric_head(b, name, "gauge", help);
    metric_sample(b, name, "", "", v);
}

static void counter(struct buf *b, const char *name, const char *help, double v)
{
    metric_head(b, name, "counter", help);
    metric_sample(b, name, "", "", v);
}

static void write_info(struct server *s, const struct served *m, struct buf *b)
{
    struct buf l = {0};
    metric_label(&l, "version", TTMD_VERSION);
    metric_label(&l, "git", TTMD_GIT);
    metric_head(b, "build_info", "gauge", "Always 1; the build in the labels.");
    metric_sample(b, "build_info", "", l.data, 1);
    buf_clear(&l);
    metric_label(&l, "model", s->model_id);
    if (m) {
        const struct engine_info *i = engine_info(m->engine);
        metric_label(&l, "fingerprint", m->fingerprint);
        metric_label(&l, "dtype", i->dtype);
        metric_label(&l, "kv_dtype", i->kv_dtype);
        metric_label(&l, "kernels", i->kernels);
        metric_label(&l, "blas_core", i->blas_core);
    }
    metric_head(b, "model_info", "gauge", "1 once the model is loaded; what it is in the labels.");
    metric_sample(b, "model_info", "", l.data, m ? 1 : 0);
    buf_release(&l);
}

static void write_engine(struct server *s, const struct served *m, struct buf *b)
{
    struct engine_stats st = {0};
    struct engine_info none = {0};
    const struct engine_info *i = m ? engine_info(m->engine) : &none;
    served_stats(s, &st);
    gauge(b, "threads", "Compute threads.",
          m ? i->threads : cpu_threads(&s->cpu, (int)s->cfg->threads));
    gauge(b, "model_weight_bytes", "Memory of the weights.", (double)i->weight_bytes);
    gauge(b, "requests_running", "Sequences being computed.", st.running);
    gauge(b, "requests_waiting", "Sequences waiting for a place in the batch.", st.waiting);
    metric_head(b, "prompt_tokens_total", "counter",
                "Prompt tokens by where their keys and values came from.");
    metric_sample(b, "prompt_tokens_total", "", "source=\"computed\"",
                  (double)st.prompt_tokens_computed);
    metric_sample(b, "prompt_tokens_total", "", "source=\"cached\"",
                  (double)st.prompt_tokens_cached);
    counter(b, "prefix_cache_lookup_tokens_total", "Prompt tokens looked for in the prefix cache.",
            (double)st.prefix_lookup_tokens);
    counter(b, "prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.",
            (double)st.prompt_tokens_cached);
    gauge(b, "prefix_cache_bytes", "Key-value memory that only the prefix cache holds.",
          (double)st.prefix_cached_blocks * (double)i->kv_block_bytes);
    gauge(b, "prefix_cache_limit_bytes", "Most that it may hold; 0: it is off.",
          (double)i->prefix_cache_bytes);
    counter(b, "speculative_drafted_tokens_total", "Tokens guessed ahead and checked.",
            (double)st.drafted_tokens);
    counter(b, "speculative_accepted_tokens_total", "Tokens guessed ahead that were right.",
            (double)st.accepted_tokens);
    counter(b, "generated_tokens_total", "Tokens generated.", (double)st.generated_tokens);
    counter(b, "scored_tokens_total", "Prompt tokens scored.", (double)st.scored_tokens);
    counter(b, "engine_steps_total", "Steps of the engine.", (double)st.steps);
    gauge(b, "kv_cache_bytes", "Memory of the key-value cache.", (double)i->kv_bytes);
    gauge(b, "kv_cache_used_ratio", "Part of the key-value cache in use by requests, 0 to 1.",
          st.kv_blocks > 0 ? (double)st.kv_blocks_used / st.kv_blocks : 0);
}

void metrics_write_server(struct server *s, const struct served *m, struct buf *b)
{
    const union MHD_DaemonInfo *n =
        s->http ? MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_CURRENT_CONNECTIONS) : NULL;
    write_info(s, m, b);
    gauge(b, "ready", "1 while requests are served.", server_ready(s));
    gauge(b, "draining", "1 from the signal to stop.", atomic_load(&s->draining));
    gauge(b, "load_progress_ratio", "Progress of loading the model, 0 to 1.",
          atomic_load(&s->load_permille) / 1000.0);
    gauge(b, "cpu_quota_cores", "CPU quota of the container in cores; 0: none.",
          s->cpu.quota_cores);
    counter(b, "cpu_throttled_seconds_total", "Time the container was held back by its CPU quota.",
            cpu_throttled_seconds());
    gauge(b, "http_connections", "Open connections.", n ? n->num_connections : 0);
    gauge(b, "queue_capacity", "Requests that may be in flight; one more is refused with 429.",
          s->max_places);
    gauge(b, "requests_in_flight", "POST requests that hold a place.", atomic_load(&s->places));
    gauge(b, "buffered_body_bytes",
          "Bodies of requests in flight, the first 16 KiB of each not counted.",
          (double)atomic_load(&s->body_bytes));
    gauge(b, "buffered_body_limit_bytes", "Most that they may have; more are refused with 429.",
          (double)s->max_bodies_bytes);
    write_engine(s, m, b);
}

static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    if (!d) return 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 3; /* ".", ".." and the directory itself */
}

/* Field 22 of /proc/self/stat is the start in clock ticks after boot; 23 and 24 are the sizes. */
static void read_stat(double *start, double *virtual_bytes, double *resident_bytes)
{
    char text[1024];
    unsigned long long ticks, vsize;
    long long rss;
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) fclose(f);
    text[n] = 0;
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 1,
                     " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                     "%llu %llu %lld",
                     &ticks, &vsize, &rss) != 3)
        return;
    *virtual_bytes = (double)vsize;
    *resident_bytes = (double)rss * (double)sysconf(_SC_PAGESIZE);
    *start = (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static double boot_unix_s(void)
{
    char line[256];
    double boot = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    while (boot == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "btime %lf", &boot) == 1) break;
    fclose(f);
    return boot;
}

static void process(struct buf *b, const char *name, const char *type, const char *help, double v)
{
    buf_printf(b, "# HELP process_%s %s\n# TYPE process_%s %s\nprocess_%s %.17g\n", name, help,
               name, type, name, v);
}

void metrics_write_process(struct buf *b)
{
    struct rusage ru;
    struct rlimit rl;
    double start = 0, vsize = 0, rss = 0, cpu = 0;
    read_stat(&start, &vsize, &rss);
    if (getrusage(RUSAGE_SELF, &ru) == 0)
        cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
              (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
    process(b, "cpu_seconds_total", "counter", "User and system CPU time.", cpu);
    process(b, "resident_memory_bytes", "gauge", "Resident memory.", rss);
    process(b, "virtual_memory_bytes", "gauge", "Virtual memory.", vsize);
    process(b, "open_fds", "gauge", "Open file descriptors.", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0)
        process(b, "max_fds", "gauge", "Limit of open file descriptors.", (double)rl.rlim_cur);
    process(b, "start_time_seconds", "gauge", "Start, in Unix time.", boot_unix_s() + start);
}
