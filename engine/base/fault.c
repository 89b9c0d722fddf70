/* Files that shrink under a mapping. A model is mapped, not read, and somebody may copy another over it in
 * place; the kernel then answers a read beyond the file's end, or of a sector that cannot be read, with SIGBUS.
 * Locks on files are advisory and sizes can change right after they were looked at, so it cannot be prevented:
 * the handler puts zero pages where the file was, notes it, and lets the read go on. Whoever mapped the file
 * asks at the end whether what it read was the file. (Copying a file before it is used would do, too, at the
 * price of having a model in memory twice.)
 *
 * A handler has no argument, hence the static table: a slot is claimed, filled, and only then visible to it.
 * All from the first bad page to the range's end is replaced in one go: a page each would take a signal each,
 * and could take more mappings than a process may have. A fault elsewhere is not ours: the action that was
 * there before (the default, or a sanitizer's) is put back, and the instruction faults again. */
#include "engine/base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum slot_state { SLOT_FREE, SLOT_CLAIMED, SLOT_WATCHED };

struct fault_range {
    atomic_int state;
    atomic_uintptr_t begin, end; /* end: of its last page */
    atomic_bool broken;
};

static struct fault_range table[FAULT_RANGES];
static struct sigaction before;
static uintptr_t page_bytes;
static int install_errno;
static pthread_once_t installed = PTHREAD_ONCE_INIT;

static struct fault_range *range_of(uintptr_t at)
{
    for (size_t i = 0; i < FAULT_RANGES; i++) {
        struct fault_range *r = &table[i];
        if (atomic_load(&r->state) == SLOT_WATCHED && at >= atomic_load(&r->begin) &&
            at < atomic_load(&r->end))
            return r;
    }
    return NULL;
}

/* The system call itself: a sanitizer's mmap() is nothing for a handler. */
static bool put_zeros(uintptr_t at, uintptr_t end)
{
    uintptr_t page = at / page_bytes * page_bytes;
    return syscall(SYS_mmap, page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0) == (long)page;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    bool sent = info->si_code <= 0; /* by kill(): no read has failed */
    uintptr_t at = (uintptr_t)info->si_addr;
    struct fault_range *r = sent ? NULL : range_of(at);
    if (r) atomic_store(&r->broken, true); /* before anybody can have read a zero */
    if (!r || !put_zeros(at, atomic_load(&r->end))) {
        sigaction(number, &before, NULL);
        if (sent) raise(number); /* blocked here, delivered at the return */
    }
    errno = saved;
}

static void install(void)
{
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_RESTART};
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    install_errno = sigaction(SIGBUS, &act, &before) ? errno : 0;
}

int fault_watch(struct fault_range **out, const void *p, size_t bytes, struct err *err)
{
    pthread_once(&installed, install);
    if (install_errno)
        return err_set(err, ERR_IO, "cannot handle SIGBUS: %s", strerror(install_errno));
    BUG_ON((uintptr_t)p % page_bytes);
    for (size_t i = 0; i < FAULT_RANGES; i++) {
        struct fault_range *r = &table[i];
        int want = SLOT_FREE;
        if (!atomic_compare_exchange_strong(&r->state, &want, SLOT_CLAIMED)) continue;
        uintptr_t pages = (bytes + page_bytes - 1) / page_bytes;
        atomic_store(&r->begin, (uintptr_t)p);
        atomic_store(&r->end, (uintptr_t)p + pages * page_bytes);
        atomic_store(&r->broken, false);
        atomic_store(&r->state, SLOT_WATCHED);
        *out = r;
        return 0;
    }
    return err_set(err, ERR_FULL, "%d files are mapped already: expected fewer", FAULT_RANGES);
}

bool fault_broken(const struct fault_range *r)
{
    return atomic_load(&r->broken);
}

void fault_release(struct fault_range *r)
{
    if (r) atomic_store(&r->state, SLOT_FREE);
}
