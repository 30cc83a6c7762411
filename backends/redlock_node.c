/* redlock_node.c - what is known of each place: how silent it is, which run of it answers, whether
 * it votes. See redlock.h. */
#include "redlock.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    FAILURES_MOST = 3,
    ANSWERS_LEAST = 2,
    AGAIN_MS = 250, /* a place that is down is asked so often */
    QUARANTINE_MORE_MS = 2000
};

/* Whoever is silent is asked now and then: not by every call, or what waits for it would grow with
 * its silence. */
bool belay__redlock_node_asks(struct redlock *r, struct redlock_node *node)
{
    int64_t now = belay_env_now(r->env);
    bool silent = node->since_ns != 0 && now - node->since_ns >= r->node_timeout_ns;
    if (!node->down && !silent) return true;
    if (now < node->again_ns) return false;
    node->again_ns = now + AGAIN_MS * REDLOCK_MS;
    return true;
}

void belay__redlock_node_asked(struct redlock *r, struct redlock_node *node)
{
    node->open++;
    if (node->since_ns == 0) node->since_ns = belay_env_now(r->env);
}

static void failed(struct redlock *r, struct redlock_node *node)
{
    node->answers = 0;
    if (++node->failures < FAILURES_MOST || node->down || r->closing) return;
    node->down = true;
    node->answers = 0;
    node->again_ns = belay_env_now(r->env) + AGAIN_MS * REDLOCK_MS;
    belay_env_log(r->env, BELAY_LOG_WARN, "%s: %s does not vote: %s", belay_env_name(r->env),
                  belay_env_name(node->place->env), node->said);
    belay_env_event(node->place->env, BELAY_EVENT_NODE_DOWN, r->base.ops->scope,
                    belay_env_now(r->env), "%s", node->said);
}

/* One good answer may be chance. */
static void back(struct redlock *r, struct redlock_node *node)
{
    node->failures = 0;
    if (!node->down || ++node->answers < ANSWERS_LEAST || r->closing) return;
    node->down = false;
    belay_env_log(r->env, BELAY_LOG_WARN, "%s: %s is back", belay_env_name(r->env),
                  belay_env_name(node->place->env));
    belay_env_event(node->place->env, BELAY_EVENT_NODE_BACK, r->base.ops->scope, 0,
                    "it answers again");
}

/* Two names for one place would make a quorum of fewer places than it looks. */
static void twins_look(struct redlock *r)
{
    r->twin[0] = r->twin[1] = -1;
    for (uint32_t i = 0; i < r->count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (r->nodes[i].about.instance[0] != '\0' &&
                strcmp(r->nodes[i].about.instance, r->nodes[j].about.instance) == 0) {
                r->twin[0] = (int)j;
                r->twin[1] = (int)i;
            }
}

static void about_look(struct redlock *r, struct redlock_node *node)
{
    belay_about about = { .started_ns = 0 };
    if (node->place->ops->about == NULL) return;
    node->place->ops->about(node->place, &about);
    bool other = strcmp(about.instance, node->about.instance) != 0;
    if (!other && about.started_ns == node->about.started_ns) return;
    node->about = about;
    if (other) twins_look(r);
    node->votes_ns = 0;
    if (r->quarantine && about.started_ns != 0)
        node->votes_ns =
            about.started_ns + ((int64_t)r->max_ttl_ms + QUARANTINE_MORE_MS) * REDLOCK_MS;
}

void belay__redlock_node_heard(struct redlock *r, struct redlock_node *node, const belay_op *op,
                               belay_status status, bool late)
{
    bool answered = belay__redlock_is_answer(status);
    if (belay_env_now(r->env) - op->sent_ns >= r->node_timeout_ns) late = true;
    bool unheard = op->cause == BELAY_CAUSE_UNREACHABLE || op->cause == BELAY_CAUSE_CUT_SHORT;
    node->open--;
    if (status == BELAY_NOMEM) return;
    if (!answered && op->cause == BELAY_CAUSE_CUT_SHORT) {
        const char *text = node->error.text; /* "connection refused" says more than our clock */
        if (text[0] != '\0' && strncmp(text, "no answer", 9) != 0)
            snprintf(node->said, sizeof node->said, "%s", text);
        bool given = belay_env_now(r->env) - op->sent_ns >= r->node_timeout_ns;
        if (node->open == 0 && !given) node->since_ns = 0;
        return;
    }
    if (answered || !unheard) node->since_ns = node->open > 0 ? belay_env_now(r->env) : 0;
    if (answered) {
        about_look(r, node);
        if (!late) back(r, node);
        snprintf(node->said, sizeof node->said, "%s",
                 status == BELAY_OK     ? "granted"
                 : status == BELAY_HELD ? "held"
                                        : "not ours");
        return;
    }
    snprintf(node->said, sizeof node->said, "%s",
             node->error.text[0] != '\0' ? node->error.text : belay_status_text(status));
    if (unheard) failed(r, node);
    else if (!late) back(r, node);
}

void belay__redlock_node_late(struct redlock *r, struct redlock_node *node)
{
    snprintf(node->said, sizeof node->said, "no answer within %" PRId64 " ms",
             r->node_timeout_ns / REDLOCK_MS);
    failed(r, node);
}

bool belay__redlock_node_votes(struct redlock *r, struct redlock_node *node)
{
    if (node->votes_ns == 0) return true;
    int64_t left = node->votes_ns - belay_env_now(r->env);
    if (left <= 0) {
        node->votes_ns = 0;
        return true;
    }
    snprintf(node->said, sizeof node->said,
             "started too lately to know of earlier locks: it votes in %" PRId64 " s",
             left / (1000 * REDLOCK_MS) + 1);
    return false;
}

void belay__redlock_say(struct redlock *r, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < r->count && used + 1 < size; i++) {
        const struct redlock_node *node = &r->nodes[i];
        int n = snprintf(out + used, size - used, "%s%s: %s", i > 0 ? "; " : "",
                         belay_env_name(node->place->env),
                         node->said[0] != '\0' ? node->said : "not asked");
        if (n > 0) used += (size_t)n;
    }
}
