/* A file that shrinks under its mapping: reads go on, the range says so; other faults end the process as ever. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/fault.h"
#include "tests/support/harness.h"

enum { BYTES = 64 << 10 };

struct mapped {
    const char *path;
    volatile const char *p;
    struct fault_range *range;
};

static void map(struct mapped *m)
{
    static char text[BYTES];
    struct err err = {0};
    memset(text, 'x', sizeof text);
    m->path = path_join(temp_dir(), "file");
    write_file(m->path, text, sizeof text);
    int fd = open(m->path, O_RDONLY | O_CLOEXEC);
    m->p = mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    ck_assert(m->p != MAP_FAILED);
    ck_assert_msg(fault_watch(&m->range, (const void *)m->p, BYTES, &err) == 0, "%s", err.msg);
}

static void unmap(struct mapped *m)
{
    fault_release(m->range);
    munmap((void *)m->p, BYTES);
}

START_TEST(zeros_are_read_and_said)
{
    struct mapped m, other;
    map(&m);
    map(&other);
    ck_assert_int_eq(m.p[BYTES - 1], 'x');
    ck_assert(!fault_broken(m.range));
    ck_assert_int_eq(truncate(m.path, 5000), 0); /* pages of 4 KiB or of 64: one is left */
    ck_assert_int_eq(m.p[4000], 'x');
    ck_assert(!fault_broken(m.range)); /* what was read was there */
#ifdef __x86_64__
    ck_assert_int_eq(m.p[9000], 0);
    ck_assert(fault_broken(m.range));
    ck_assert_int_eq(m.p[4000], 'x');
#endif
    ck_assert_int_eq(truncate(m.path, 0), 0);
    for (int i = BYTES - 1; i >= 0; i -= 512)
        ck_assert_int_eq(m.p[i], 0);
    ck_assert(fault_broken(m.range));
    ck_assert(!fault_broken(other.range));
    ck_assert_int_eq(other.p[BYTES - 1], 'x');
    unmap(&m);
    unmap(&other);
    map(&m); /* a slot that is used again starts whole */
    ck_assert(!fault_broken(m.range));
    unmap(&m);
}
END_TEST

static void *read_all(void *arg)
{
    struct mapped *m = arg;
    for (int i = 0; i < BYTES; i++)
        if (m->p[i]) return m;
    return NULL;
}

START_TEST(threads_fault_at_once)
{
    for (int round = 0; round < 50; round++) {
        struct mapped m;
        pthread_t t[4];
        void *seen;
        map(&m);
        ck_assert_int_eq(truncate(m.path, 0), 0);
        for (int i = 0; i < 4; i++)
            ck_assert_int_eq(pthread_create(&t[i], NULL, read_all, &m), 0);
        for (int i = 0; i < 4; i++) {
            pthread_join(t[i], &seen);
            ck_assert_ptr_null(seen);
        }
        ck_assert(fault_broken(m.range));
        unmap(&m);
    }
}
END_TEST

START_TEST(the_table_has_an_end)
{
    static struct fault_range *r[FAULT_RANGES];
    static _Alignas(65536) char page[1];
    struct fault_range *more;
    struct err err = {0};
    for (int i = 0; i < FAULT_RANGES; i++)
        ck_assert_int_eq(fault_watch(&r[i], page, 1, &err), 0);
    ck_assert_int_eq(fault_watch(&more, page, 1, &err), ERR_FULL);
    fault_release(r[7]);
    ck_assert_int_eq(fault_watch(&more, page, 1, NULL), 0);
    r[7] = more;
    for (int i = 0; i < FAULT_RANGES; i++)
        fault_release(r[i]);
    fault_release(NULL);
}
END_TEST

/* Outside of what is watched nothing is hidden. A sanitizer reports it in its own way. */
START_TEST(other_faults_end_the_process)
{
    struct mapped m;
    map(&m);
    fault_release(m.range);
    ck_assert_int_eq(truncate(m.path, 0), 0);
    if (_i)
        raise(SIGBUS);
    else
        ck_assert_int_eq(m.p[0], 1); /* not reached */
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("fault");
    TCase *t = tcase_create("fault");
    tcase_add_test(t, zeros_are_read_and_said);
    tcase_add_test(t, threads_fault_at_once);
    tcase_add_test(t, the_table_has_an_end);
    if (!harness_sanitized())
        tcase_add_loop_test_raise_signal(t, other_faults_end_the_process, SIGBUS, 0, 2);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
