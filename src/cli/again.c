/* This program once more: engines compile so many programs for one process and no more. */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#define CARRIED "ANNEAL_CARRIED"

const char *cli_self(void)
{
	static char path[PATH_MAX];
#ifdef __APPLE__
	uint32_t size = sizeof path;
	if (_NSGetExecutablePath(path, &size) == 0)
		return path;
#else
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	if (n > 0)
		path[n] = 0;
	if (n > 0 && access(path, X_OK) == 0)
		return path;
	if (n > 0) /* replaced since by a newer one: what runs is still there under this name */
		return "/proc/self/exe";
#endif
	cli_fail("cannot find out where this program lies");
}

static void stop_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
}

void cli_again(const char *word, const char *option, int argc, char **argv, const char *carried)
{
	char **all = cli_alloc((size_t)argc + 3, sizeof *all);
	sigset_t set;
	int n = 0;
	all[n++] = cli_format("anneal");
	all[n++] = cli_format("%s", word);
	if (option)
		all[n++] = cli_format("%s", option);
	for (int i = 1; i < argc; i++) /* once, however often this happens */
		if (!option || strcmp(argv[i], option) != 0)
			all[n++] = argv[i];
	if (setenv(CARRIED, carried, 1) != 0)
		cli_fail("out of memory");
	fflush(NULL);
	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL); /* those that come now wait for the new program's handlers */
	execv(cli_self(), all);
	cli_fail("cannot start this program (%s) again: %s", cli_self(), strerror(errno));
}

char *cli_carried(void)
{
	const char *value = getenv(CARRIED);
	char *copy = value ? cli_format("%s", value) : NULL;
	unsetenv(CARRIED);
	return copy;
}

void cli_accept_signals(void)
{
	sigset_t set;
	stop_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}
