/* client.c - opening belay for a verb that asks something and ends; and its standard output. */
#include "client.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "message.h"
#include "signals.h"

static void on_log(void *arg, belay_level level, const char *line)
{
    struct text text;
    (void)arg;
    (void)level;
    text_init(&text);
    text_add_shown(&text, line);
    say_text(NULL, &text);
}

belay *client_open(const struct args *args, int *status)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay *client;

    options.on_log = args->quiet ? NULL : on_log;
    options.log_level = args->verbose ? BELAY_LOG_DEBUG : BELAY_LOG_DEFAULT;
    if (args->verb->bit == VERB_STATUS && !args->verbose) /* its answer says all that */
        options.log_level = BELAY_LOG_ERROR;
    if (belay_open(&client, args->config, &options, &err) == BELAY_OK) return client;
    *status = complain(NULL, &err);
    return NULL;
}

void client_label(const struct args *args, const char *what, char label[BELAY_LABEL_MAX + 1])
{
    struct text text;
    struct utsname host;
    const char *slash = strrchr(what, '/');

    text_init(&text);
    if (args->label != NULL) {
        text_add(&text, "%s", args->label);
    } else {
        /* The environment's word will do: getpwuid would load the name service's libraries. */
        const char *user = getenv("USER");
        if (user == NULL || *user == '\0') user = getenv("LOGNAME");
        if (user != NULL && *user != '\0') text_add(&text, "%s", user);
        else if (getuid() == 0) text_add(&text, "root");
        else text_add(&text, "uid %ld", (long)getuid());
        if (uname(&host) == 0) text_add(&text, "@%s", host.nodename);
        text_add(&text, ": %s", slash != NULL ? slash + 1 : what);
    }

    size_t keep = 0;
    while (text.data[keep] != '\0') { /* cut between characters */
        size_t length = text_utf8_length(text.data + keep);
        if (length == 0) length = 1;
        if (keep + length > BELAY_LABEL_MAX) break;
        keep += length;
    }
    memcpy(label, text.data, keep);
    label[keep] = '\0';
}

int output_flush(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    return errno != 0 ? errno : EIO;
}

int output_failed(int why)
{
    if (why == EPIPE) signals_die(SIGPIPE);
    say(NULL, "standard output: %s", strerror(why));
    return EXIT_INTERNAL;
}

int output_end(int status)
{
    int why = output_flush();
    return why == 0 ? status : output_failed(why);
}
