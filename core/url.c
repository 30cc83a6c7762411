/* url.c - URLs: RFC 3986 as far as connection strings go; lists of hosts as MongoDB's and libpq's
 * have. */
#define _GNU_SOURCE /* explicit_bzero */
#include "core/url.h"

#include "core/alloc.h"
#include "core/suggest.h"

#include <assert.h>
#include <stdio.h>

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The length of "scheme" in "scheme:"; 0 if it does not begin that way. */
static size_t scheme_length(const char *text)
{
    size_t length = 0;

    if (!is_lower(text[0])) return 0;
    while (is_lower(text[length]) || is_digit(text[length]) || text[length] == '+' ||
           text[length] == '-' || text[length] == '.')
        length++;
    return text[length] == ':' ? length : 0;
}

bool belay__url_looks(const char *text)
{
    return scheme_length(text) != 0;
}

/* ------------------------------------------------------------------ masking */

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);

    return length >= n && strncmp(text + length - n, end, n) == 0;
}

/* Is it a query's key whose value is a secret, other than a way to find one? */
static bool key_is_secret(const char *key, size_t length)
{
    static const char *const words[] = { "pass", "secret" };

    if (ends_with(key, length, "_file") || ends_with(key, length, "_env") ||
        ends_with(key, length, "_credential"))
        return false;
    if (memchr(key, '%', length) != NULL) return true; /* could be anything */
    for (size_t w = 0; w < 2; w++) {
        size_t n = strlen(words[w]);
        for (size_t i = 0; i + n <= length; i++) {
            if (strncasecmp(key + i, words[w], n) == 0) return true;
        }
    }
    return false;
}

char *belay__url_masked(const char *text, belay_world *world)
{
    size_t length = strlen(text), used = 0;
    const char *authority = strstr(text, "//");
    const char *at = authority != NULL ? strrchr(authority, '@') : NULL;
    const char *colon = at != NULL ? memchr(authority, ':', (size_t)(at - authority)) : NULL;
    const char *query = text;
    char *out = belay__alloc(world, length * 2 + 8);

    if (out == NULL) return NULL;
    if (colon != NULL) {
        used = (size_t)(colon + 1 - text);
        memcpy(out, text, used);
        memcpy(out + used, "***", 3);
        used += 3;
        query = at;
    }
    for (const char *from = query; *from != '\0';) {
        size_t n = strcspn(from, "?&"), key;
        if (from[n] != '\0') n++;
        memcpy(out + used, from, n);
        used += n;
        from += n;
        if (*from == '\0' || n == 0 || (from[-1] != '?' && from[-1] != '&')) continue;
        key = strcspn(from, "=&");
        if (from[key] != '=' || !key_is_secret(from, key)) continue;
        memcpy(out + used, from, key + 1);
        used += key + 1;
        from += key + 1;
        from += strcspn(from, "&");
        memcpy(out + used, "***", 3);
        used += 3;
    }
    out[used] = '\0';
    return out;
}

/* ------------------------------------------------------------------ taking apart */

struct parser {
    struct belay__url *url;
    const char *text, *at;
    belay_world *world;
    belay_error *err;
};

static belay_status no_memory(belay_error *err)
{
    return belay_error_set(err, BELAY_NOMEM, NULL, "no memory for a URL");
}

static belay_status url_wrong(const struct parser *p, const char *why)
{
    char *masked = belay__url_masked(p->text, p->world);
    char shown[BELAY__AT];

    if (masked == NULL) return no_memory(p->err);
    belay__at(shown, masked, 0);
    belay__free(masked);
    if (p->at != NULL)
        return belay_error_set(p->err, BELAY_CONFIG, NULL, "%s: %s: %s", p->at, shown, why);
    return belay_error_set(p->err, BELAY_CONFIG, NULL, "%s: %s", shown, why);
}

static int hex_digit(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* *out: from[0..length) with %XX decoded, in the store. */
static belay_status url_decode(const struct parser *p, const char *from, size_t length,
                               const char **out)
{
    struct belay__url *url = p->url;
    char *copy = url->store + url->used;
    const char *why = NULL;
    size_t used = 0;

    assert(length < url->room - url->used);
    for (size_t i = 0; i < length && why == NULL; i++) {
        int high, low;
        if (from[i] != '%') {
            copy[used++] = from[i];
            continue;
        }
        high = length - i > 2 ? hex_digit(from[i + 1]) : -1;
        low = length - i > 2 ? hex_digit(from[i + 2]) : -1;
        if (high < 0 || low < 0)
            why = "a '%' is not followed by two hexadecimal digits; a '%' itself is written %25";
        else if (high == 0 && low == 0) why = "has a NUL byte (%00) in it";
        else copy[used++] = (char)(high * 16 + low);
        i += 2;
    }
    copy[used++] = '\0';
    url->used += used;
    *out = copy;
    return why == NULL ? BELAY_OK : url_wrong(p, why);
}

static belay_status url_userinfo(struct parser *p, const char *from, size_t length)
{
    const char *colon = memchr(from, ':', length);
    size_t user = colon != NULL ? (size_t)(colon - from) : length;
    belay_status status = BELAY_OK;

    if (user > 0) status = url_decode(p, from, user, &p->url->parts.user);
    if (status == BELAY_OK && colon != NULL)
        status = url_decode(p, colon + 1, length - user - 1, &p->url->parts.password);
    return status;
}

/* One of a list: "name", "name:port", "[v6]", "[v6]:port". */
static belay_status url_host(struct parser *p, const char *from, size_t length,
                             belay_url_host *host)
{
    const char *colon = memchr(from, ':', length);
    size_t name = colon != NULL ? (size_t)(colon - from) : length, digits;
    unsigned long port = 0;
    belay_status status;

    if (length > 0 && from[0] == '[') {
        const char *close = memchr(from, ']', length);
        if (close == NULL) return url_wrong(p, "a '[' of an IPv6 address is not closed");
        name = (size_t)(close - from) + 1;
        if (name == 2) return url_wrong(p, "a host is empty");
        if (name < length && from[name] != ':') return url_wrong(p, "a port stands behind a ':'");
        status = url_decode(p, from + 1, name - 2, &host->host);
    } else {
        if (name == 0) return url_wrong(p, "a host is empty");
        status = url_decode(p, from, name, &host->host);
    }
    if (status != BELAY_OK || name == length) return status;
    digits = length - name - 1;
    for (size_t i = name + 1; i < length; i++) {
        if (!is_digit(from[i]))
            return url_wrong(p, "a port is not a number; an IPv6 address stands in [ ]");
        if (port <= 65535) port = port * 10 + (unsigned long)(from[i] - '0');
    }
    if (digits == 0 || port < 1 || port > 65535)
        return url_wrong(p, "a port is not between 1 and 65535");
    host->port = (uint16_t)port;
    return BELAY_OK;
}

static belay_status url_hosts(struct parser *p, const char *from, size_t length)
{
    size_t count = 1;

    if (length == 0) return BELAY_OK;
    for (size_t i = 0; i < length; i++) count += from[i] == ',';
    p->url->hosts = belay__alloc(p->world, count * sizeof(*p->url->hosts));
    if (p->url->hosts == NULL) return no_memory(p->err);
    p->url->parts.hosts = p->url->hosts;
    for (const char *end = from + length; from <= end;) {
        const char *comma = memchr(from, ',', (size_t)(end - from));
        size_t n = (size_t)((comma != NULL ? comma : end) - from);
        belay_status status = url_host(p, from, n, &p->url->hosts[p->url->parts.host_count++]);
        if (status != BELAY_OK) return status;
        from += n + 1;
    }
    return BELAY_OK;
}

static belay_status url_authority(struct parser *p, const char *from, size_t length)
{
    const char *at = memrchr(from, '@', length);
    belay_status status = BELAY_OK;

    if (at != NULL) {
        status = url_userinfo(p, from, (size_t)(at - from));
        length -= (size_t)(at + 1 - from);
        from = at + 1;
    }
    return status == BELAY_OK ? url_hosts(p, from, length) : status;
}

static belay_status url_query(struct parser *p, const char *from)
{
    size_t count = 1;

    if (*from == '\0') return BELAY_OK;
    for (const char *c = from; *c != '\0'; c++) count += *c == '&';
    p->url->query = belay__alloc(p->world, count * sizeof(*p->url->query));
    if (p->url->query == NULL) return no_memory(p->err);
    for (;;) {
        size_t n = strcspn(from, "&"), key = strcspn(from, "=&");
        struct belay__url_pair *pair = &p->url->query[p->url->query_count++];
        belay_status status;
        if (key == 0 || from[key] != '=')
            return url_wrong(p, "behind '?' stands key=value&key=value");
        status = url_decode(p, from, key, &pair->key);
        if (status == BELAY_OK) status = url_decode(p, from + key + 1, n - key - 1, &pair->value);
        if (status != BELAY_OK) return status;
        if (from[n] == '\0') return BELAY_OK;
        from += n + 1;
    }
}

static void wipe(char *text)
{
    if (text != NULL) explicit_bzero(text, strlen(text));
    belay__free(text);
}

/* The URL without its query, its password masked: for messages, and as a name. */
static belay_status url_show(struct parser *p, size_t bare)
{
    char *copy = belay__copy(p->world, p->text, bare);

    if (copy == NULL) return no_memory(p->err);
    p->url->masked = belay__url_masked(copy, p->world);
    wipe(copy);
    if (p->url->masked == NULL) return no_memory(p->err);
    p->url->parts.text = p->url->masked;
    return BELAY_OK;
}

static belay_status url_take_apart(struct parser *p)
{
    size_t scheme = scheme_length(p->text), bare = strcspn(p->text, "?"), n;
    const char *rest = p->text + scheme + 1;
    belay_status status;

    p->url->room = 2 * strlen(p->text) + 4; /* no string is longer than its text, and a NUL */
    p->url->store = belay__alloc(p->world, p->url->room);
    if (p->url->store == NULL) return no_memory(p->err);
    status = url_show(p, bare);
    if (status == BELAY_OK) status = url_decode(p, p->text, scheme, &p->url->parts.scheme);
    n = bare - (size_t)(rest - p->text);
    if (status == BELAY_OK && strncmp(rest, "//", 2) == 0) {
        size_t authority = strcspn(rest + 2, "/?");
        p->url->authority = true;
        status = url_authority(p, rest + 2, authority);
        rest += 2 + authority;
        n -= 2 + authority;
    }
    if (status == BELAY_OK) status = url_decode(p, rest, n, &p->url->parts.path);
    if (status == BELAY_OK && p->text[bare] == '?') status = url_query(p, p->text + bare + 1);
    return status;
}

belay_status belay__url_parse(struct belay__url *out, const char *text, const char *at,
                              belay_world *world, belay_error *err)
{
    struct parser p = { .url = out, .text = text, .at = at, .world = world, .err = err };

    *out = (struct belay__url){ 0 };
    if (strnlen(text, BELAY__URL_MAX + 1) > BELAY__URL_MAX)
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s%sa URL is longer than %d bytes",
                               at != NULL ? at : "", at != NULL ? ": " : "", BELAY__URL_MAX);
    for (const char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c <= 0x20 || *c == 0x7f)
            return url_wrong(&p, "a space or control character is written %XX in a URL");
        if (*c == '#') return url_wrong(&p, "a '#' is written %23 in a URL");
    }
    if (scheme_length(text) == 0) return url_wrong(&p, "is not a URL: it begins with \"scheme:\"");
    return url_take_apart(&p);
}

void belay__url_free(struct belay__url *url)
{
    if (url->store != NULL) explicit_bzero(url->store, url->room);
    belay__free(url->store);
    belay__free(url->masked);
    belay__free(url->hosts);
    belay__free(url->query);
    *url = (struct belay__url){ 0 };
}
