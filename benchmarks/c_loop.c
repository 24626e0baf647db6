/* The floor for benchmarks/launch.py: what a plain loop needs to run a command COUNT times, AT_ONCE at a time,
 * each in a directory of its own with its output in a log there, every end written to a journal that is synced
 * every 50 ms.
 *
 *     c_loop COUNT AT_ONCE FOLDER
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(1);
    }
}

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static pid_t start(long number)
{
    char name[32];
    char *words[] = {"true", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;

    snprintf(name, sizeof name, "%ld", number);
    check(mkdir(name, 0777), "mkdir");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, name);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "job.out", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    check(posix_spawn(&pid, "/bin/true", &actions, NULL, words, environ), "posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

int main(int argc, char **argv)
{
    check(argc != 4 || chdir(argv[3]), "usage: c_loop COUNT AT_ONCE FOLDER");
    long count = atol(argv[1]), at_once = atol(argv[2]), started = 0, ended = 0;
    int journal = open("journal", O_WRONLY | O_CREAT | O_APPEND, 0666);
    double synced = clock_s();

    check(journal < 0, "journal");
    while (ended < count) {
        while (started < count && started - ended < at_once)
            start(started++);
        int status;
        pid_t pid = wait(&status);
        check(pid < 0, "wait");
        dprintf(journal, "%d %d\n", (int)pid, status);
        ended++;
        if (clock_s() - synced > 0.05) {
            fdatasync(journal);
            synced = clock_s();
        }
    }
    fdatasync(journal);
    return 0;
}
