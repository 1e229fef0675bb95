/* How much memory is left: the system's estimate, and the limit of the control group that the
 * process is in (containers). */
#include "train/train.h"

#include <stdio.h>

/* The number after `key` in a file of "key number" lines; without a key the first number.  -1: none. */
static int64_t number_in(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	char line[256];
	long long n = -1;
	size_t len = key ? strlen(key) : 0;
	while (f && n < 0 && fgets(line, sizeof line, f))
		if (!key || strncmp(line, key, len) == 0)
			if (sscanf(line + len, "%lld", &n) != 1)
				break;
	if (f)
		fclose(f);
	return n;
}

/* Limit minus use; pages of files that are only cached can be taken back. */
static int64_t group_available(const char *folder)
{
	char path[600];
	snprintf(path, sizeof path, "%s/memory.max", folder);
	int64_t max = number_in(path, NULL);
	snprintf(path, sizeof path, "%s/memory.current", folder);
	int64_t used = number_in(path, NULL);
	snprintf(path, sizeof path, "%s/memory.stat", folder);
	int64_t cache = number_in(path, "inactive_file ");
	if (max < 0 || used < 0) /* "max": no limit */
		return INT64_MAX;
	return MAX(max - used + MAX(cache, 0), 0);
}

int64_t memory_available(void)
{
	int64_t kilobytes = number_in("/proc/meminfo", "MemAvailable:"), left = INT64_MAX;
	if (kilobytes >= 0)
		left = kilobytes * 1024;
	/* control groups, version 2: every ancestor's limit holds */
	char line[512] = "", path[560];
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3) != 0)
		line[0] = 0;
	if (f)
		fclose(f);
	if (strncmp(line, "0::/", 4) == 0) {
		line[strcspn(line, "\n")] = 0;
		snprintf(path, sizeof path, "/sys/fs/cgroup%s", line + 3);
		for (char *end = path + strlen(path); end >= path + strlen("/sys/fs/cgroup");) {
			left = MIN(left, group_available(path));
			while (end > path && *end != '/')
				end--;
			*end = 0;
		}
	}
	return left;
}
