/* Threads leave the process's signals to the main thread and keep their own. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/pool.h"
#include "engine/base/thread.h"
#include "tests/support/harness.h"

static void *mask_of(void *arg)
{
    pthread_sigmask(SIG_SETMASK, NULL, arg);
    return arg;
}

START_TEST(masks)
{
    static const int sent[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD, SIGWINCH};
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t before, after, theirs;
    pthread_t t;
    void *back;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    ck_assert_int_eq(thread_start(&t, mask_of, &theirs, "masks"), 0);
    ck_assert_int_eq(pthread_join(t, &back), 0);
    ck_assert_ptr_eq(back, &theirs);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int s = 1; s < SIGRTMIN; s++)
        ck_assert_int_eq(sigismember(&before, s), sigismember(&after, s));
    for (size_t i = 0; i < sizeof sent / sizeof *sent; i++)
        ck_assert_int_eq(sigismember(&theirs, sent[i]), 1);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        ck_assert_int_eq(sigismember(&theirs, own[i]), 0);
}
END_TEST

static void *name_of(void *arg)
{
    while (pthread_getname_np(pthread_self(), arg, 16) == 0 && strcmp(arg, "a-name") != 0)
        poll(NULL, 0, 1); /* it gets the name from the one who started it */
    return NULL;
}

START_TEST(names)
{
    char name[16] = "";
    pthread_t t;
    ck_assert_int_eq(thread_start(&t, name_of, name, "a-name"), 0);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    ck_assert_str_eq(name, "a-name");
}
END_TEST

static atomic_int faults;
static char *page;
enum { PAGE = 1 << 16 };

static void heal(int number)
{
    (void)number;
    atomic_fetch_add(&faults, 1);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

static void touch(void *arg, size_t begin, size_t end, int worker)
{
    (void)begin, (void)end;
    if (worker > 0) ((volatile char *)arg)[worker] = 1;
    poll(NULL, 0, 1); /* so that nobody takes all */
}

/* A worker's fault gets to its handler. */
START_TEST(workers_fault)
{
    struct err err = {0};
    struct pool *p;
    struct sigaction act = {.sa_handler = heal};
    ck_assert_int_eq(pool_new(&p, 3, &err), 0);
    page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(page != MAP_FAILED);
    sigaction(SIGSEGV, &act, NULL);
    for (int i = 0; i < 1000 && !atomic_load(&faults); i++)
        pool_for(p, 8, 1, touch, page);
    signal(SIGSEGV, SIG_DFL);
    ck_assert_int_gt(atomic_load(&faults), 0);
    ck_assert_int_eq(page[1] + page[2] > 0, 1);
    munmap(page, PAGE);
    pool_free(p);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("thread");
    TCase *t = tcase_create("thread");
    tcase_add_test(t, masks);
    tcase_add_test(t, names);
    tcase_add_test(t, workers_fault);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
