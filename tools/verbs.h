/* verbs.h - the verbs, one function each: it does its work and returns the exit status. */
#ifndef BELAY_TOOLS_VERBS_H
#define BELAY_TOOLS_VERBS_H

#include "args.h"

int verb_run(const struct args *args);        /* run.c */
int verb_try(const struct args *args);        /* grant.c */
int verb_extend(const struct args *args);     /* grant.c */
int verb_release(const struct args *args);    /* grant.c */
int verb_status(const struct args *args);     /* look.c */
int verb_watch(const struct args *args);      /* watch.c */
int verb_list(const struct args *args);       /* look.c */
int verb_break(const struct args *args);      /* look.c */
int verb_doctor(const struct args *args);     /* doctor.c */
int verb_config(const struct args *args);     /* config.c */
int verb_version(const struct args *args);    /* help.c */
int verb_completion(const struct args *args); /* help.c */
int verb_help(const struct args *args);       /* help.c */

/* The help of args->verb, or of belay as a whole. */
void help_print(FILE *out, const struct args *args);

#endif
