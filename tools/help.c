/* help.c - what belay says about itself: `help`, `version`, `completion`. */
#include <string.h>

#include <belay/belay.h>

#include "client.h"
#include "json.h"
#include "message.h"
#include "verbs.h"

void help_print(FILE *out, const struct args *args)
{
    if (args->verb != NULL && args->verb->bit != VERB_HELP) {
        fprintf(out, "usage: belay %s %s\n\n%s.\n", args->verb->name, args->verb->synopsis,
                args->verb->about);
        if (args->verb->details != NULL) fprintf(out, "\n%s", args->verb->details);
        fputs("\noptions:\n", out);
        args_print_options(out, args->verb);
        return;
    }
    fputs("belay: distributed locks\n\n", out);
    for (const struct verb *verb = verbs; verb->name != NULL; verb++)
        fprintf(out, "  belay %-11s %s\n", verb->name, verb->about);
    fputs("\n"
          "  belay run nightly -- backup.sh      runs backup.sh, never twice at a time\n"
          "  belay help run                      about one of them\n"
          "\n"
          "exit status: the command's; 75 held; 64 usage; 69 backend unavailable; 70 internal;\n"
          "77 refused; 78 configuration; 79 lock lost; 126, 127 not executable, not found\n",
          out);
}

int verb_help(const struct args *args)
{
    struct args of = *args;
    if (args->words[0] != NULL) {
        of.verb = args_verb(args->words[0]);
        if (of.verb == NULL) {
            say(NULL, "help: there is no such command");
            return EXIT_USAGE;
        }
    }
    help_print(stdout, &of);
    return output_end(EXIT_DONE);
}

int verb_version(const struct args *args)
{
    if (args->json) {
        struct json json;
        json_init(&json, stdout);
        json_open(&json, NULL, '{');
        json_text(&json, "version", belay_version());
        json_close(&json, '}');
        putc('\n', stdout);
    } else {
        printf("belay %s\n", belay_version());
    }
    return output_end(EXIT_DONE);
}

static const char completion_head[] =
    "# belay's completion for bash:  . <(belay completion bash)\n"
    "_belay() {\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} verb= i\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        case ${COMP_WORDS[i]} in\n"
    "        --) declare -F _command_offset >/dev/null && _command_offset $((i + 1)); return ;;\n"
    "        --config | --owner | --label) ((i++)) ;;\n"
    "        -*) ;;\n"
    "        *) [ -n \"$verb\" ] || verb=${COMP_WORDS[i]} ;;\n"
    "        esac\n"
    "    done\n"
    "    local options=\n"
    "    case ${COMP_WORDS[COMP_CWORD - 1]} in\n"
    "    --config) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n";
static const char completion_verbs[] = "    esac\n"
                                       "    case $verb in\n";
static const char completion_tail[] = "    esac\n"
                                      "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
                                      "}\n"
                                      "complete -o default -F _belay belay\n";

int verb_completion(const struct args *args)
{
    if (strcmp(args->words[0], "bash") != 0) {
        say("completion", "for bash only, so far");
        return EXIT_USAGE;
    }
    fputs(completion_head, stdout);
    args_print_option_choices(stdout);
    fputs(completion_verbs, stdout);
    fputs("    '') options='", stdout);
    for (const struct verb *verb = verbs; verb->name != NULL; verb++)
        printf("%s%s", verb == verbs ? "" : " ", verb->name);
    fputs("' ;;\n", stdout);
    for (const struct verb *verb = verbs; verb->name != NULL; verb++) {
        printf("    %s) options='%s", verb->name,
               verb->bit == VERB_CONFIG       ? "check show"
               : verb->bit == VERB_COMPLETION ? "bash"
                                              : "");
        args_print_option_words(stdout, verb);
        fputs("' ;;\n", stdout);
    }
    fputs(completion_tail, stdout);
    return output_end(EXIT_DONE);
}
