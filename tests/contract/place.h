/* place.h - for the mains that run the suite: config files in a folder of their own. */
#ifndef BELAY_TESTS_CONTRACT_PLACE_H
#define BELAY_TESTS_CONTRACT_PLACE_H

#include <belay/testing.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    char folder[64];
    char paths[4][96]; /* of config files */
    int count;
};

/* A new empty folder. False when there can be none. */
static inline bool place_make(struct place *place)
{
    memset(place, 0, sizeof *place);
    snprintf(place->folder, sizeof place->folder, "/tmp/belay-contract-XXXXXX");
    return mkdtemp(place->folder) != NULL;
}

/* Writes a config file; its path, or NULL. */
static inline const char *place_config(struct place *place, const char *text)
{
    char *path = place->paths[place->count];
    char folder[sizeof place->folder];
    memcpy(folder, place->folder, sizeof folder);
    snprintf(path, sizeof place->paths[0], "%s/%d.conf", folder, place->count);
    FILE *file = fopen(path, "w");
    if (file == NULL) return NULL;
    bool written = fputs(text, file) >= 0;
    if (fclose(file) != 0 || !written) return NULL;
    place->count++;
    return path;
}

/* Removes the folder and every file in it. */
static inline void place_remove(struct place *place)
{
    DIR *folder = opendir(place->folder);
    struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL)
        if (entry->d_name[0] != '.') unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder != NULL) closedir(folder);
    rmdir(place->folder);
}

#endif
