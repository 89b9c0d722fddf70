#ifndef TTMD_BASE_VERSION_H
#define TTMD_BASE_VERSION_H

/* The one place of the version; TTMD_GIT comes from the Makefile ("" outside a checkout). */
#define TTMD_VERSION "0.1.0"
#ifndef TTMD_GIT
#define TTMD_GIT ""
#endif

#endif
