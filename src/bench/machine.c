/* Processor, caches, memory. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#ifdef __APPLE__

static int64_t number(const char *name)
{
	int64_t x = 0;
	size_t n = sizeof x;
	return sysctlbyname(name, &x, &n, NULL, 0) == 0 ? x : 0;
}

static void cpu_name(char *out, size_t size)
{
	size_t n = size;
	if (sysctlbyname("machdep.cpu.brand_string", out, &n, NULL, 0) != 0)
		snprintf(out, size, "unknown");
}

#else

/* The value of the first line of /proc/cpuinfo with this name. */
static bool cpuinfo(const char *name, char *out, size_t size)
{
	char line[512];
	bool found = false;
	FILE *f = fopen("/proc/cpuinfo", "r");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		size_t n = strlen(name);
		if (!colon || strncmp(line, name, n) != 0 ||
		    strspn(line + n, " \t") != (size_t)(colon - line) - n)
			continue;
		char *value = colon + 1 + strspn(colon + 1, " \t");
		value[strcspn(value, "\n")] = 0;
		found = snprintf(out, size, "%s", value) > 0;
	}
	fclose(f);
	return found;
}

/* Virtual machines often hide the model's name, not its number. */
static void cpu_name(char *out, size_t size)
{
	char name[80], family[16], model[16], stepping[16];
	if (cpuinfo("model name", name, sizeof name) && cpuinfo("cpu family", family, sizeof family) &&
	    cpuinfo("model", model, sizeof model) && cpuinfo("stepping", stepping, sizeof stepping))
		snprintf(out, size, "%s (family %s, model %s, stepping %s)", name, family, model, stepping);
	else if (cpuinfo("CPU implementer", family, sizeof family) &&
		 cpuinfo("CPU part", model, sizeof model))
		snprintf(out, size, "Arm implementer %s, part %s", family, model);
	else
		snprintf(out, size, "unknown");
}

#endif

void machine_get(bench_machine *m)
{
	*m = (bench_machine){0};
	cpu_name(m->cpu, sizeof m->cpu);
#ifdef __APPLE__
	m->l2 = number("hw.perflevel0.l2cachesize");
	m->memory = number("hw.memsize");
#else
#ifdef _SC_LEVEL2_CACHE_SIZE
	m->l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
	m->l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
	m->memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
#endif
	if (m->l2 <= 0)
		m->l2 = 1 << 20;
	if (m->l3 < 0)
		m->l3 = 0;
}

void machine_forget_peak(void)
{
#ifdef __linux__
	FILE *f = fopen("/proc/self/clear_refs", "w"); /* proc(5): 5 resets the peak */
	if (f) {
		fputs("5", f);
		fclose(f);
	}
#endif
}

int64_t machine_peak_memory(void)
{
	struct rusage r;
#ifdef __linux__
	char line[128];
	long long kilobytes = 0;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && !kilobytes && fgets(line, sizeof line, f))
		sscanf(line, "VmHWM: %lld", &kilobytes);
	if (f)
		fclose(f);
	if (kilobytes)
		return (int64_t)kilobytes * 1024;
#endif
	if (getrusage(RUSAGE_SELF, &r) != 0)
		return 0;
#ifdef __APPLE__
	return r.ru_maxrss;
#else
	return (int64_t)r.ru_maxrss * 1024;
#endif
}
