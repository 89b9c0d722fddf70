/* Who may write into a directory. flock() and not a file that is there or not: a lock that dies with its
 * process cannot be left behind by one that was killed. The file carries the process's number only for
 * the message to whoever comes second.
 *
 * What is in the directory is looked at again once it is locked: before, another may just be ending. */
#include "models/train/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/outdir.h"
#include "models/train/state.h"

#define LOCK_NAME "train.lock"

bool run_dir_has(const char *path, const char *name)
{
    char *file = outdir_join(path, name);
    bool there = access(file, F_OK) == 0;
    free(file);
    return there;
}

static bool begun(const char *path)
{
    char *state = outdir_join(path, "train.state");
    bool b = state_begun(state);
    free(state);
    return b;
}

static int check(const char *path, bool resume, bool force, struct err *err)
{
    bool run = run_dir_has(path, "train.state"), model = run_dir_has(path, "model.safetensors");
    if (resume && !run && (model || !run_dir_has(path, LOCK_NAME)))
        return err_set_param(err, ERR_MISSING, "resume", "--resume: there is no train.state in %s",
                             path);
    if (!resume && !force && (model || (run && begun(path))))
        return err_set(err, ERR_INVALID,
                       "%s has a %s; --resume goes on with a run, --force starts over", path,
                       run ? "run" : "model");
    return 0;
}

static int make(const char *path, bool resume, struct err *err)
{
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : err_set(err, ERR_INVALID, "%s is not a directory", path);
    if (resume)
        return err_set_param(err, ERR_MISSING, "resume", "--resume: there is no run in %s", path);
    if (errno == ENOENT && mkdir(path, 0777) == 0) return 0;
    return err_set(err, ERR_IO, "cannot make directory %s: %s", path, strerror(errno));
}

static int take(int fd, const char *path, const char *file, struct err *err)
{
    char pid[24] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno != EWOULDBLOCK)
        return err_set(err, ERR_IO, "cannot lock %s: %s", file, strerror(errno));
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    return err_set(err, ERR_INVALID, "%s is in use: process %s trains there", path,
                   n > 0 ? pid : "?");
}

int run_dir_claim(struct run_dir *d, const char *path, bool *resume, bool force, struct err *err)
{
    char *file = outdir_join(path, LOCK_NAME), pid[24];
    d->lock = -1;
    int rc = make(path, *resume, err);
    if (rc) goto out;
    d->lock = open(file, O_RDWR | O_CLOEXEC);
    if (d->lock >= 0) rc = take(d->lock, path, file, err);
    if (!rc) rc = check(path, *resume, force, err);
    if (!rc && d->lock < 0) {
        d->lock = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        rc = d->lock < 0 ? err_set(err, ERR_IO, "cannot write %s: %s", file, strerror(errno))
                         : take(d->lock, path, file, err);
        if (!rc) rc = check(path, *resume, force, err);
    }
    if (rc) goto out;
    int n = snprintf(pid, sizeof pid, "%ld", (long)getpid());
    if (ftruncate(d->lock, 0) != 0 || pwrite(d->lock, pid, (size_t)n, 0) != n)
        rc = err_set(err, ERR_IO, "cannot write %s: %s", file, strerror(errno));
    *resume = *resume && run_dir_has(path, "train.state");
out:
    free(file);
    if (rc) run_dir_release(d);
    return rc;
}

void run_dir_release(struct run_dir *d)
{
    if (d->lock >= 0) close(d->lock);
    d->lock = -1;
}
