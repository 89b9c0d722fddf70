/* A thread inherits the mask of the one that starts it. Blocking first and unblocking afterwards leaves no
 * moment in which the new thread could be handed a signal; the starter's own wait in its mask meanwhile. */
#include "engine/base/thread.h"

#include <signal.h>

int thread_start(pthread_t *out, void *(*run)(void *), void *arg, const char *name)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t sent, old;
    sigfillset(&sent);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&sent, own[i]); /* a blocked fault ends the process, whatever handles it */
    pthread_sigmask(SIG_SETMASK, &sent, &old);
    int rc = pthread_create(out, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!rc) pthread_setname_np(*out, name);
    return rc;
}
