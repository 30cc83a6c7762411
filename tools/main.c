/* main.c - belay, the command line: the table of verbs, and the way to them.
 *
 * It uses <belay/belay.h> alone, as any program would. Data goes to standard output, everything
 * else to standard error.
 *
 *   args.c       the command line, read         message.c  standard error, exit statuses
 *   run.c        `run`: fork, acquire, release  text.c     a line in the making
 *   hold.c       `run`: while the command runs  json.c     --json
 *   child.c      the command                    client.c   opening belay, standard output
 *   signals.c    signals, read                  grant.c    try, extend, release
 *   terminal.c   whose turn the terminal is     look.c     status, list, break
 *   wait_display.c  the line while we wait      watch.c    watch
 *   health.c     what a fallback says of itself config.c   config;  doctor.c  doctor
 *   help.c       the rest
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "client.h"
#include "message.h"
#include "verbs.h"

const struct verb verbs[] = {
    { "run", VERB_RUN, verb_run, 1, 1, false,
      "[-n | -w DUR] [-t TTL] [-E CODE] [-k GRACE] [--on-lost=WHAT]\n"
      "                 [--no-degrade | --on-degrade=WHAT] NAME -- CMD...",
      "Hold the lock NAME while CMD runs",
      "CMD finds BELAY_LOCK, BELAY_TOKEN (the fencing token), BELAY_SCOPE (process, host, fleet)\n"
      "and BELAY_DEGRADED (1: the lock began with less than that reaches when all is well, else "
      "0)\n"
      "in its environment. The lock is kept while CMD runs and released\n"
      "when it ends. If it can't be kept, CMD is ended before anybody else can hold the lock.\n"
      "The exit status is CMD's, or 128 + the signal that ended it; 75 when another holds the "
      "lock.\n" },
    { "try", VERB_TRY, verb_try, 1, 1, false, "[-t TTL] [--no-degrade] NAME",
      "Take the lock NAME now or not at all; prints its owner id",
      "The lock belongs to no process: it ends with its TTL, or by `belay release`.\n"
      "  id=$(belay try -t 1m nightly) || exit\n"
      "  belay release nightly --owner \"$id\"\n" },
    { "extend", VERB_EXTEND, verb_extend, 1, 1, true, "NAME --owner ID [-t TTL]",
      "Lengthen a lock that `try` took", NULL },
    { "release", VERB_RELEASE, verb_release, 1, 1, true, "NAME --owner ID",
      "Release a lock that `try` took", NULL },
    { "status", VERB_STATUS, verb_status, 0, 1, false, "[NAME]",
      "Show who holds NAME; without it, whether locks can be taken here",
      "Without a name it tries a lock and says what came of it; of a fallback also whether it "
      "does\n"
      "without its primary, since when and why, and what other processes of this host say. The "
      "exit\n"
      "status is 0 when a lock can be taken, a degraded one as well unless --no-degrade, else "
      "69.\n" },
    { "watch", VERB_WATCH, verb_watch, 0, 0, false, "[--every DUR] [--json]",
      "Print what happens, line by line, until Ctrl-C",
      "It tries a lock now and then: ready, not-ready, and what a fallback tells (degraded,\n"
      "recovered). other-degraded and other-recovered are what other processes of this host "
      "say.\n" },
    { "list", VERB_LIST, verb_list, 0, 1, false, "[GLOB]", "List the locks that are held", NULL },
    { "break", VERB_BREAK, verb_break, 1, 1, false, "[--yes] NAME",
      "Take the lock NAME away from its holder",
      "The holder's next extension tells it that the lock is lost; until then it believes in "
      "it.\n" },
    { "config", VERB_CONFIG, verb_config, 1, 2, false, "check [WHERE] | show [TYPE]",
      "Check a configuration; show what a type of backend understands", NULL },
    { "doctor", VERB_DOCTOR, verb_doctor, 0, 0, false, "[--json]", "Look for what is wrong",
      "Asks every backend that the config uses how it is, and takes and releases a lock.\n"
      "The exit status is 0 when all is well, 1 after warnings, 69 when something is broken or\n"
      "can't be reached, 78 when the configuration is wrong.\n" },
    { "version", VERB_VERSION, verb_version, 0, 0, false, "", "Print the version", NULL },
    { "completion", VERB_COMPLETION, verb_completion, 1, 1, false, "bash",
      "Print the completion for a shell", NULL },
    { "help", VERB_HELP, verb_help, 0, 1, false, "[COMMAND]", "Print help", NULL },
    { NULL, 0, NULL, 0, 0, false, NULL, NULL, NULL },
};

/* Whoever starts us with descriptors 0 to 2 closed would have the next file we open, a database
 * say, become our standard error. One system call when all is well. */
static bool standard_descriptors(void)
{
    struct pollfd fds[3] = { { 0, 0, 0 }, { 1, 0, 0 }, { 2, 0, 0 } };
    if (poll(fds, 3, 0) == 0) return true;
    for (int i = 0; i < 3; i++) {
        if ((fds[i].revents & POLLNVAL) == 0) continue;
        /* The lowest free one is this one: those below are open by now. */
        if (open("/dev/null", O_RDWR) != i) return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct args args;

    if (!standard_descriptors()) return EXIT_INTERNAL;
    if (argc == 1) {
        args = (struct args){ 0 };
        help_print(stderr, &args);
        return EXIT_USAGE;
    }
    if (!args_read(&args, argc, argv)) return EXIT_USAGE;
    if (args.version) return verb_version(&args);
    /* run's command inherits what we ignore; it takes care of SIGPIPE itself, after the fork. */
    if (args.verb == NULL || args.verb->bit != VERB_RUN) signal(SIGPIPE, SIG_IGN);
    if (args.help || args.verb == NULL) {
        help_print(stdout, &args);
        return output_end(EXIT_DONE);
    }
    return args.verb->run(&args);
}
