/* url_test.c - URLs: taken apart, masked, and turned into a configuration. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

#include "core/url.h"

/* ------------------------------------------------------------------ taking apart */

static void parsed(struct belay__url *url, const char *text)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay__url_parse(url, text, NULL, NULL, &err);

    if (status != BELAY_OK) print_error("%s\n", err.text);
    assert_int_equal(status, BELAY_OK);
}

static void wrong(const char *text, const char *message)
{
    struct belay__url url;
    belay_error err = BELAY_ERROR_INIT;

    assert_int_equal(belay__url_parse(&url, text, NULL, NULL, &err), BELAY_CONFIG);
    belay__url_free(&url);
    assert_string_equal(err.text, message);
}

static void a_url_is_taken_apart_and_decoded(void **state)
{
    struct belay__url url;

    (void)state;
    parsed(&url, "redis+x://us%65r:p%40%3Ass@10.0.0.1:6379,[::1]:7000,name/a%20b/"
                 "0?timeout=200ms&prefix=x%3a");
    assert_string_equal(url.parts.scheme, "redis+x");
    assert_true(url.authority);
    assert_string_equal(url.parts.user, "user");
    assert_string_equal(url.parts.password, "p@:ss");
    assert_int_equal(url.parts.host_count, 3);
    assert_string_equal(url.parts.hosts[0].host, "10.0.0.1");
    assert_int_equal(url.parts.hosts[0].port, 6379);
    assert_string_equal(url.parts.hosts[1].host, "::1");
    assert_int_equal(url.parts.hosts[1].port, 7000);
    assert_string_equal(url.parts.hosts[2].host, "name");
    assert_int_equal(url.parts.hosts[2].port, 0);
    assert_string_equal(url.parts.path, "/a b/0");
    assert_int_equal(url.query_count, 2);
    assert_string_equal(url.query[0].key, "timeout");
    assert_string_equal(url.query[0].value, "200ms");
    assert_string_equal(url.query[1].value, "x:");
    belay__url_free(&url);
}

static void a_url_without_an_authority_is_a_path(void **state)
{
    struct belay__url url;

    (void)state;
    parsed(&url, "memory:");
    assert_false(url.authority);
    assert_string_equal(url.parts.path, "");
    belay__url_free(&url);
    parsed(&url, "memory:name?x=");
    assert_string_equal(url.parts.path, "name");
    assert_string_equal(url.query[0].value, "");
    assert_string_equal(url.parts.text, "memory:name");
    belay__url_free(&url);
    parsed(&url, "sqlite:///var/lib/x.db");
    assert_true(url.authority);
    assert_int_equal(url.parts.host_count, 0);
    assert_null(url.parts.password);
    assert_string_equal(url.parts.path, "/var/lib/x.db");
    belay__url_free(&url);
    parsed(&url, "redis://:secret@h");
    assert_null(url.parts.user);
    assert_string_equal(url.parts.password, "secret");
    belay__url_free(&url);
}

static void what_looks_like_a_url(void **state)
{
    (void)state;
    assert_true(belay__url_looks("redis+sentinel://x"));
    assert_true(belay__url_looks("memory:"));
    assert_false(belay__url_looks("/etc/belay.conf"));
    assert_false(belay__url_looks("belay.conf"));
    assert_false(belay__url_looks("./a:b"));
    assert_false(belay__url_looks("Redis:"));
    assert_false(belay__url_looks("1a:"));
    assert_false(belay__url_looks(""));
    assert_false(belay__url_looks(":"));
}

static void a_broken_url_is_refused_with_the_reason(void **state)
{
    (void)state;
    wrong("a://h:0", "a://h:0: a port is not between 1 and 65535");
    wrong("a://h:65536", "a://h:65536: a port is not between 1 and 65535");
    wrong("a://h:99999999999999999999",
          "a://h:99999999999999999999: a port is not between 1 and 65535");
    wrong("a://h:", "a://h:: a port is not between 1 and 65535");
    wrong("a://h:6x", "a://h:6x: a port is not a number; an IPv6 address stands in [ ]");
    wrong("a://::1", "a://::1: a host is empty");
    wrong("a://h,", "a://h,: a host is empty");
    wrong("a://[]", "a://[]: a host is empty");
    wrong("a://[::1", "a://[::1: a '[' of an IPv6 address is not closed");
    wrong("a://[::1]6", "a://[::1]6: a port stands behind a ':'");
    wrong("a:%4",
          "a:%4: a '%' is not followed by two hexadecimal digits; a '%' itself is written %25");
    wrong("a:%zz",
          "a:%zz: a '%' is not followed by two hexadecimal digits; a '%' itself is written %25");
    wrong("a:x%00", "a:x%00: has a NUL byte (%00) in it");
    wrong("a:b c", "a:b c: a space or control character is written %XX in a URL");
    wrong("a:b#c", "a:b#c: a '#' is written %23 in a URL");
    wrong("a:?x", "a:?x: behind '?' stands key=value&key=value");
    wrong("a:?=x", "a:?=x: behind '?' stands key=value&key=value");
    wrong("a:?x=1&", "a:?x=1&: behind '?' stands key=value&key=value");
    wrong("nothing", "nothing: is not a URL: it begins with \"scheme:\"");
}

static void a_url_over_four_kilobytes_is_refused(void **state)
{
    char text[BELAY__URL_MAX + 2];

    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    text[1] = ':';
    text[sizeof(text) - 1] = '\0';
    wrong(text, "a URL is longer than 4096 bytes");
}

/* ------------------------------------------------------------------ masking */

static void masks(const char *text, const char *want)
{
    char *masked = belay__url_masked(text, NULL);

    assert_string_equal(masked, want);
    free(masked);
}

static void passwords_are_masked_also_where_the_url_is_broken(void **state)
{
    (void)state;
    masks("redis://u:secret@h/0", "redis://u:***@h/0");
    masks("redis://:secret@h", "redis://:***@h");
    masks("redis://u@h:1", "redis://u@h:1");
    masks("redis://u:se/cr?et@h:1", "redis://u:***@h:1");
    masks("redis://u:a@b@h", "redis://u:***@h");
    masks("redis://h?password=secret&x=1", "redis://h?password=***&x=1");
    masks("redis://h?x=1&Sentinel-Password=secret", "redis://h?x=1&Sentinel-Password=***");
    masks("redis://h?password_file=/x&pass", "redis://h?password_file=/x&pass");
    masks("redis://h?sentinel_password=secret", "redis://h?sentinel_password=***");
    masks("redis://h?tls.pass_phrase=secret", "redis://h?tls.pass_phrase=***");
    masks("redis://h?p%61ssword=secret&x=1", "redis://h?p%61ssword=***&x=1");
    masks("memory:a", "memory:a");
    masks("sqlite:///x/y.db?timeout=1s", "sqlite:///x/y.db?timeout=1s");
}

static void no_message_shows_a_password(void **state)
{
    static const char *const urls[] = { "redis://u:hush@h",
                                        "plain://u:hush@h/x",
                                        "nets://u:hush@h?nothing=1",
                                        "nets://u:hush@h:x?password=hush",
                                        "nets://u:hush@h%",
                                        "net://u:hush@h/bad",
                                        "net://u:h%75sh@h/bad",
                                        "net://u:h%75sh@h?p%61ssword=hush",
                                        "net://h?password=hush&password_env=NONE",
                                        "pair:nets://u:hush@h:0%25" };
    struct belay__config *config = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        belay_error err = BELAY_ERROR_INIT;
        assert_int_equal(belay__config_load(&config, urls[i], &fake_registry, NULL, &err),
                         BELAY_CONFIG);
        assert_non_null(strchr(err.text, ':'));
        assert_null(strstr(err.text, "hush"));
        assert_null(strstr(err.node, "hush"));
    }
}

/* ------------------------------------------------------------------ a configuration */

static void refused_url(const char *url, const char *message)
{
    refused_where(url, BELAY_CONFIG, message);
}

static void a_url_is_a_whole_configuration(void **state)
{
    struct belay__config *config =
        loaded("plain:///var/x.db?size=7&timeout=200ms&prefix=x:&ttl=1m&wait=try&keep=false"
               "&fencing=false&tls.ca=/c&nodes=a&nodes=b,c&ratio=2e-1&mode=644&sync=false");
    const belay_settings *s = config->backends[0].settings;

    (void)state;
    assert_string_equal(belay_settings_string(s, "path"), "/var/x.db");
    assert_int_equal(belay_settings_integer(s, "size"), 7);
    assert_string_equal(belay_settings_string(s, "tls.ca"), "/c");
    assert_int_equal(belay_settings_count(s, "nodes"), 2);
    assert_string_equal(belay_settings_item(s, "nodes", 1), "b,c");
    assert_true(belay_settings_real(s, "ratio") == 0.2);
    assert_int_equal(belay_settings_integer(s, "mode"), 0644);
    assert_false(belay_settings_boolean(s, "sync"));
    assert_int_equal(config->backends[0].timeout_ms, 200);
    assert_string_equal(config->prefix, "x:");
    assert_int_equal(config->ttl_ms, 60000);
    assert_int_equal(config->wait_ms, BELAY_TRY);
    assert_false(config->keep);
    assert_false(config->fencing);
    belay__config_free(config);
}

static void values_of_a_url_are_checked_like_those_of_a_file(void **state)
{
    (void)state;
    refused_url("plain:?size=65", "plain:?size=65: size: \"65\" is out of range: from 1 to 64");
    refused_url("plain:?size=010",
                "plain:?size=010: size: \"010\" begins with a zero; write it without");
    refused_url("plain:?size=1x", "plain:?size=1x: size: \"1x\" is not a whole number");
    refused_url(
        "plain:?size=99999999999999999999",
        "plain:?size=99999999999999999999: size: \"99999999999999999999\" is too large for a "
        "number");
    refused_url("plain:?ratio=0x1p3", "plain:?ratio=0x1p3: ratio: \"0x1p3\" is not a number");
    refused_url("plain:?ratio=nan", "plain:?ratio=nan: ratio: \"nan\" is not a number");
    refused_url("plain:?sync=yes", "plain:?sync=yes: sync: \"yes\" is neither true nor false");
    refused_url("plain:?ttl=10",
                "plain:?ttl=10: ttl: \"10\" has no unit (ms, s, m, h, d): \"10s\"");
    refused_url("plain:?ttl=",
                "plain:?ttl=: ttl: \"\" is not a duration: a whole number and a unit "
                "(ms, s, m, h, d): \"10s\"");
    refused_url("plain:?size=1&size=2", "plain:?size=1&size=2: size: is given twice");
    refused_url("plain:x?path=y", "plain:x?path=y: path: is given twice");
    refused_url(
        "plain:?siez=1",
        "plain:?siez=1: a backend of type \"plain\" has no key \"siez\"; did you mean \"size\"?");
    refused_url("plain:?prefx=1",
                "plain:?prefx=1: a backend of type \"plain\" has no key \"prefx\"; "
                "did you mean \"prefix\"?");
    refused_url("plain:?type=net", "plain:?type=net: type: is given twice");
    refused_url("plain:?outage=1s",
                "plain:?outage=1s: a backend of type \"plain\" has no key \"outage\"");
    refused_url("plain:?tls=1", "plain:?tls=1: tls: is a group: tls.KEY=VALUE");
}

static void a_url_with_a_host_where_none_is_wanted_is_refused(void **state)
{
    (void)state;
    refused_url("plain://var/x.db",
                "plain://var/x.db: has a host, and plain: takes none; a path has "
                "three slashes: plain:///path");
}

static void an_unknown_scheme_is_refused_with_a_suggestion(void **state)
{
    (void)state;
    refused_url("sqlit:///x",
                "sqlit:///x: there is no URL scheme \"sqlit\"; did you mean \"sqlite\"? "
                "(known: plain:, pair:, "
                "net:, nets:, sqlite:)");
    refused_url("http://u:pw@x/",
                "http://u:***@x/: there is no URL scheme \"http\" (known: plain:, "
                "pair:, net:, nets:, sqlite:)");
}

static void a_table_is_given_the_parts_of_its_url(void **state)
{
    struct belay__config *config = loaded("nets://m%65:p%3a%40@there:1,[::2],x/?ttl=1s");
    const belay_settings *s = config->backends[0].settings;
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    assert_int_equal(belay_settings_count(s, "host"), 3);
    assert_string_equal(belay_settings_item(s, "host", 0), "there port 1");
    assert_string_equal(belay_settings_item(s, "host", 1), "::2 port 0");
    assert_string_equal(belay_settings_item(s, "host", 2), "x port 0");
    assert_string_equal(belay_settings_string(s, "user"), "me");
    assert_string_equal(belay_settings_string(s, "password"), "p:@");
    assert_int_equal(config->ttl_ms, 1000);
    assert_string_equal(config->source, "nets://m%65:***@there:1,[::2],x/?ttl=1s");
    assert_string_equal(config->backends[0].name, "nets://m%65:***@there:1,[::2],x/");
    assert_int_equal(belay_settings_wrong(s, "host", &err, "is %s", "odd"), BELAY_CONFIG);
    assert_string_equal(err.text, "nets://m%65:***@there:1,[::2],x/?ttl=1s: host: is odd");
    belay__config_free(config);
    refused_url("nets:there", "nets:there: there is no host");
    refused_url("nets://x@h/bad", "nets://x@h/bad: bad: nets://x@h/bad ()");
    refused_url("nets://x:hush@h/bad",
                "nets://x:***@h/bad: is not a valid URL for a backend of type \"net\"");
    refused_url("nets://x:hu%73h@h/bad",
                "nets://x:***@h/bad: is not a valid URL for a backend of type \"net\"");
    refused_url("nets://x:hush@h?password=p",
                "nets://x:***@h?password=***: password: the secret was given before (nets://x:***@h"
                "?password=***); give one of password, password_file, password_env, "
                "password_credential");
}

static void a_query_sets_keys_in_groups_and_secrets(void **state)
{
    char file[] = "/tmp/belay-url-XXXXXX", url[256];
    int fd = mkstemp(file);
    struct belay__config *config;
    const belay_settings *s;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "from a file\n", 12), 12);
    close(fd);
    setenv("BELAY_URL_TEST", "from the environment", 1);
    snprintf(url, sizeof(url),
             "net://h?tls.ca=%%2Fca&password_file=%s&tls.pass_phrase_env=BELAY_URL_TEST", file);
    config = loaded(url);
    s = config->backends[0].settings;
    assert_string_equal(belay_settings_string(s, "tls.ca"), "/ca");
    assert_string_equal(belay_settings_string(s, "password"), "from a file");
    assert_string_equal(belay_settings_string(s, "tls.pass_phrase"), "from the environment");
    belay__config_free(config);
    unlink(file);
    unsetenv("BELAY_URL_TEST");
}

static void a_url_may_hold_a_url(void **state)
{
    struct belay__config *config = loaded("pair:plain:/x%3Fsize%3D9?rest=nets://a@b&rest=plain:");

    (void)state;
    assert_int_equal(config->count, 4);
    assert_int_equal(config->use, 3);
    assert_string_equal(config->backends[0].name, "plain:/x");
    assert_int_equal(belay_settings_integer(config->backends[0].settings, "size"), 9);
    assert_string_equal(config->backends[1].name, "nets://a@b");
    belay__config_free(config);
    refused_url("pair:there", "pair:there: first: there is no backend \"there\"");
}

static void every_failing_allocation_is_a_clean_nomem(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    struct belay__config *config = NULL;
    belay_status status = BELAY_NOMEM;
    long n;

    (void)state;
    for (n = 0; status == BELAY_NOMEM; n++) {
        struct poor_world poor = POOR_WORLD(n);
        status = belay__config_load(&config, "pair:nets://u:p@b?rest=plain:x&prefix=y&timeout=1s",
                                    &fake_registry, &poor.base, &err);
        assert_true(status == BELAY_OK || (err.status == BELAY_NOMEM && config == NULL));
        assert_true(n < 1000);
    }
    assert_int_equal(status, BELAY_OK);
    belay__config_free(config);
    for (status = BELAY_NOMEM, n = 0; status == BELAY_NOMEM; n++) {
        struct poor_world poor = POOR_WORLD(n);
        struct belay__url url;
        status = belay__url_parse(&url, "a://u:p@h:1,[::2]/x?y=z&a=b", NULL, &poor.base, &err);
        belay__url_free(&url);
    }
    assert_int_equal(status, BELAY_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_url_is_taken_apart_and_decoded),
        cmocka_unit_test(a_url_without_an_authority_is_a_path),
        cmocka_unit_test(what_looks_like_a_url),
        cmocka_unit_test(a_broken_url_is_refused_with_the_reason),
        cmocka_unit_test(a_url_over_four_kilobytes_is_refused),
        cmocka_unit_test(passwords_are_masked_also_where_the_url_is_broken),
        cmocka_unit_test(no_message_shows_a_password),
        cmocka_unit_test(a_url_is_a_whole_configuration),
        cmocka_unit_test(values_of_a_url_are_checked_like_those_of_a_file),
        cmocka_unit_test(a_url_with_a_host_where_none_is_wanted_is_refused),
        cmocka_unit_test(an_unknown_scheme_is_refused_with_a_suggestion),
        cmocka_unit_test(a_table_is_given_the_parts_of_its_url),
        cmocka_unit_test(a_query_sets_keys_in_groups_and_secrets),
        cmocka_unit_test(a_url_may_hold_a_url),
        cmocka_unit_test(every_failing_allocation_is_a_clean_nomem),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
