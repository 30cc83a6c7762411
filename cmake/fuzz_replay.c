/* fuzz_replay.c - gives a libFuzzer target its corpus, without libFuzzer: one call for each file
 * named. So the corpus is a test with every compiler and sanitizer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char *read_all(const char *path, size_t *size)
{
    unsigned char *bytes = NULL;
    FILE *file = fopen(path, "rb");

    *size = 0;
    if (file == NULL) return NULL;
    if (fseek(file, 0, SEEK_END) == 0) {
        long end = ftell(file);

        rewind(file);
        /* Exactly as long as the input, so that a byte too far is seen. */
        if (end >= 0 && (bytes = malloc(end > 0 ? (size_t)end : 1)) != NULL)
            *size = fread(bytes, 1, (size_t)end, file);
    }
    fclose(file);
    return bytes;
}

int main(int argc, char **argv)
{
    int inputs = argc - 1;
    unsigned char **bytes = calloc((size_t)argc, sizeof *bytes);
    size_t *sizes = calloc((size_t)argc, sizeof *sizes);

    if (bytes == NULL || sizes == NULL) return 2;
    for (int i = 0; i < inputs; i++) /* before Initialize may change the directory */
        if ((bytes[i] = read_all(argv[i + 1], &sizes[i])) == NULL) {
            perror(argv[i + 1]);
            return 2;
        }
    if (LLVMFuzzerInitialize != NULL) LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 0; i < inputs; i++) {
        LLVMFuzzerTestOneInput(bytes[i], sizes[i]);
        free(bytes[i]);
    }
    free(bytes);
    free(sizes);
    printf("%d inputs\n", inputs);
    return inputs > 0 ? 0 : 1;
}
