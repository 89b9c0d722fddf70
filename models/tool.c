/* The few things that all subcommands do the same way. They live outside main.c so that tests can
 * call a command in their own process, with streams and a stop flag of their own. */
#include "models/tool.h"

int tool_interrupted(struct err *err)
{
    return err_set(err, ERR_SHUTDOWN, "interrupted");
}
