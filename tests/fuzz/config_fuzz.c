/* config_fuzz.c - any bytes, as a config file with an include, or as a URL: an answer, never a
 * crash, a hang or a leak. `./dev check fuzz` runs it.
 *
 * A first byte 'u' makes the rest a URL; otherwise a byte 0x01 separates the file from "inc.conf"
 * beside it. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

const belay_backend_ops *const belay__builtin_backends[] = { NULL };
static char folder[] = "/dev/shm/belay-fuzz-XXXXXX";

static void folder_remove(void)
{
    unlink("c.conf");
    unlink("inc.conf");
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (mkdtemp(folder) == NULL || chdir(folder) != 0) abort();
    atexit(folder_remove);
    setenv("HOME", folder, 1);
    return 0;
}

static void write_file(const char *path, const uint8_t *bytes, size_t length)
{
    FILE *file = fopen(path, "w");

    if (file == NULL || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
    chmod(path, 0600);
}

static void load(const char *where)
{
    struct belay__config *config = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay__config_load(&config, where, &fake_registry, NULL, &err);

    if ((status == BELAY_OK) != (config != NULL)) abort();
    if (status != BELAY_OK && (err.status != status || err.text[0] == '\0')) abort();
    /* libconfig is not to find anything that was not found before it was asked. */
    size_t length = strlen(err.text), tail = strlen(": syntax error");
    if (length >= tail && strcmp(err.text + length - tail, ": syntax error") == 0) abort();
    if (strchr(err.text, '\n') != NULL) abort();
    for (size_t i = 0; config != NULL && i < config->count; i++) {
        for (size_t n = 0; n < config->backends[i].child_count; n++) {
            if (config->backends[i].children[n] >= i) abort();
        }
    }
    belay__config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *split = memchr(data, 1, size);
    size_t main_size = split != NULL ? (size_t)(split - data) : size;

    if (size > 0 && data[0] == 'u') {
        char *url = strndup((const char *)data + 1, size - 1);
        if (url[strspn(url, "abcdefghijklmnopqrstuvwxyz")] == ':' && url[0] != ':') load(url);
        free(url);
        return 0;
    }
    write_file("c.conf", data, main_size);
    write_file("inc.conf", split != NULL ? split + 1 : data,
               split != NULL ? size - main_size - 1 : 0);
    load("c.conf");
    return 0;
}
