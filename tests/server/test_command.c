/* ttmd's command line where it ends by itself: keys are made, configurations checked, and what is wrong is said
 * with exit status 2 before anything is served. */
#include <stdio.h>

#include "tests/server/fixture.h"
#include "tests/support/tool_call.h"

/* Kernels of another architecture. */
#if defined(__aarch64__)
#define OTHERS_KERNELS "avx2"
#else
#define OTHERS_KERNELS "neon"
#endif

static void expect(const char *flags, int status, const char *says)
{
    struct tool_result r;
    char command[1200];
    snprintf(command, sizeof command, "exec '%s' %s 2>&1", build_path("ttmd"), flags);
    tool_process((const char *const[]){"/bin/sh", "-c", command, NULL}, NULL, &r);
    ck_assert_msg(r.rc == status && strstr(r.out, says) != NULL, "%s: %d, %s", flags, r.rc, r.out);
    tool_result_release(&r);
}

START_TEST(new_api_keys)
{
    expect("--new-api-key bob", 0, "bob sha256=");
    expect("--new-api-key=bob", 0, "bob sha256=");
    expect("--new-api-key", 2, "the label \"\" is not 1 to 32 letters");
    expect("--new-api-key=", 2, "the label \"\" is not 1 to 32 letters");
    expect("--new-api-key --help", 2, "the label \"--help\" is not 1 to 32 letters");
    expect("--new-api-key -x", 2, "not '-' first");
    expect("--model x --new-api-key bob", 2, "expected no other flag");
    expect("--new-api-key bob --help", 2, "expected no other flag");
    expect("--new-api-key=bob x", 2, "expected no other flag");
    expect("--new-api-keys bob", 2, "unknown flag --new-api-keys");
}
END_TEST

/* What the start would refuse, --check-config refuses, in the same words and with the same status. */
START_TEST(checked_as_started)
{
    static const struct {
        const char *flags, *says;
    } cases[] = {
        {"--cors-origins foo", "is no origin: scheme://host"},
        {"--tls-certificate-file /nowhere.pem", "tls_key_file is missing"},
        {"--tls-key-file /nowhere.pem", "tls_certificate_file is missing"},
        {"--tls-certificate-file /nowhere.pem --tls-key-file /nowhere.pem",
         "tls_certificate_file: /nowhere.pem cannot be read"},
        {"--api-keys-file /nowhere/keys", "the API keys' file /nowhere/keys cannot be read"},
        {"--max-batch 0", "--max-batch"},
        {"--kernels " OTHERS_KERNELS, "cannot run on this processor"},
        {"--host ::1::2", "::1::2"},
        {"--host bad..host", "bad..host"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char flags[600];
        int n = snprintf(flags, sizeof flags, "--port 0 --model %s %s", daemon_tiny_model(),
                         cases[i].flags);
        expect(flags, 2, cases[i].says);
        snprintf(flags + n, sizeof flags - (size_t)n, " --check-config");
        expect(flags, 2, cases[i].says);
    }
    expect("--model x --cors-origins 'https://a.org, *' --check-config", 0,
           "the configuration is valid");
    expect("--model x --host '*' --kernels scalar --check-config", 0, "the configuration is valid");
    expect("--model x --host ::1 --check-config", 0, "the configuration is valid");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("command line");
    TCase *t = tcase_create("command line");
    daemon_tiny_model();
    tcase_set_timeout(t, 60);
    tcase_add_test(t, new_api_keys);
    tcase_add_test(t, checked_as_started);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
