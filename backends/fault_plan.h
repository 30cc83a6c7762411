/* fault_plan.h - fate, for fault.c: what happens to the next attempt of a verb. */
#ifndef BELAY_BACKENDS_FAULT_PLAN_H
#define BELAY_BACKENDS_FAULT_PLAN_H

#include <belay/backend.h>

enum fault_fate {
    FAULT_OK,
    FAULT_UNAVAILABLE, /* not sent */
    FAULT_APPLIED,     /* took effect, and its answer is lost */
    FAULT_DROPPED,     /* lost on its way, and nobody knows */
    FAULT_HELD,        /* acquire: not sent, and refused */
    FAULT_LOST,        /* release, extend: the lock is taken away first */
    FAULT_FATES
};

struct fault_step {
    enum fault_fate fate;
    uint32_t count; /* 0: for ever */
    int64_t delay_ns, reply_ns;
};

/* What happens to one verb. */
struct fault_plan {
    double share[FAULT_FATES]; /* probabilities; FAULT_OK has the rest */
    int64_t delay_ns, delay_max_ns, reply_ns, reply_max_ns;
    struct fault_step *steps;
    size_t step_count, at;
    uint32_t done; /* of steps[at].count */
};

/* Reads a verb's keys: OK, CONFIG, NOMEM. In any case the plan is to be freed of its steps. */
belay_status belay__fault_plan_read(struct fault_plan *plan, belay_env *env,
                                    const belay_settings *settings, belay_verb verb,
                                    belay_error *err);
void belay__fault_plan_fini(struct fault_plan *plan, belay_env *env);

/* The fate of the next attempt; `random` is the state of the generator. */
struct fault_step belay__fault_plan_next(struct fault_plan *plan, uint64_t *random);
const char *belay__fault_fate_name(enum fault_fate fate);

extern const belay_setting_spec belay__fault_settings[];

#endif
