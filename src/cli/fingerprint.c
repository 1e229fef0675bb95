/* anneal fingerprint: a device's arithmetic against what was published of chips. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_fingerprint = {
    .name = "fingerprint",
    .operands = "[ID]...",
    .summary = "compute the published fingerprints of chips and compare",
    .details =
	"Relative errors of seeded computations that others have measured on chips.  Verdicts: equal (in "
	"all\n"
	"digits that the computation determines); differs; unexplained (differs, and no arithmetic is known\n"
	"that does not); not published (for this chip).  The exit status is 1 if one differs.  With "
	"--numerics\n"
	"all, the default of the software engine, every profile of a chip that has figures is measured.",
    .example = "anneal fingerprint gemm-512 conv-relu",
    .run = run,
};

static const char *const verdicts[] = {
    [AN_EQUAL] = "equal",
    [AN_DIFFERS] = "differs",
    [AN_UNEXPLAINED] = "unexplained",
    [AN_UNPUBLISHED] = "not published",
};

/* One device and the chip whose figures it should give. */
typedef struct subject {
	an_device *device;
	const char *name, *chip;
} subject;

static bool has_figures(const char *chip)
{
	const an_recipe *r;
	for (int i = 0; (r = an_recipe_at(i)); i++)
		if (an_published_find(r->id, chip))
			return true;
	return false;
}

/* All profiles of chips, or the device that was asked for. */
static subject *open_subjects(an_ctx *ctx, const cli_device *d, const char *chip, int *n)
{
	an_numerics_profile_info p;
	an_device_info info = {0};
	an_device *device = NULL;
	int profiles = 0;
	bool all = d->numerics && !strcmp(d->numerics, "all");
	if (all && d->device && strcmp(d->device, "soft"))
		cli_usage("--numerics all: only the software engine has profiles");
	if (!all && (d->device || d->numerics)) {
		device = cli_open_device(ctx, d, NULL);
		an_device_get_info(device, &info);
	}
	if (!d->numerics && (!device || !strcmp(info.name, "soft"))) {
		all = true;
		an_device_close(device);
	}
	while (an_numerics_profile(profiles, &p))
		profiles++;
	subject *s = cli_alloc((size_t)profiles + 1, sizeof *s);
	*n = 0;
	for (int i = 0; all && an_numerics_profile(i, &p); i++) {
		if (!has_figures(p.name))
			continue;
		cli_device one = {.numerics = p.name};
		s[(*n)++] = (subject){cli_open_device(ctx, &one, NULL), p.name, chip ? chip : p.name};
	}
	if (!all) {
		const char *name = info.numerics ? info.numerics : info.name;
		s[(*n)++] = (subject){device, name, chip ? chip : name};
	}
	return s;
}

static void print_number(double x)
{
	if (isfinite(x))
		printf("%.17g", x);
	else
		printf("null");
}

static void print_json(const an_recipe *r, const subject *s, const an_published *p, double measured,
		       an_verdict v, bool first)
{
	printf("%s{\"id\": \"%s\", \"recipe\": ", first ? "[" : ",\n ", r->id);
	cli_json_text(stdout, r->text);
	printf(", \"numerics\": ");
	cli_json_text(stdout, s->name);
	printf(", \"chip\": ");
	cli_json_text(stdout, s->chip);
	printf(", \"measured\": ");
	print_number(measured);
	printf(", \"published\": %s, \"difference\": ", p ? p->figure : "null");
	if (p)
		print_number(measured / strtod(p->figure, NULL) - 1);
	else
		printf("null");
	printf(", \"chips\": ");
	cli_json_text(stdout, p ? p->chips : "");
	printf(", \"evidence\": ");
	cli_json_text(stdout, p ? p->evidence : "");
	printf(", \"verdict\": \"%s\"}", verdicts[v]);
}

static void print_row(const subject *s, const an_published *p, double measured, an_verdict v)
{
	printf("  %-10s %-22.16g", s->name, measured);
	if (p)
		printf(" %-22s %+9.1e", p->figure, measured / strtod(p->figure, NULL) - 1);
	else
		printf(" %-22s %9s", "", "");
	printf("  %s\n", verdicts[v]);
}

/* One fingerprint on all subjects; count[] is by verdict. */
static void measure(an_ctx *ctx, int index, const subject *s, int n, bool json, int count[4])
{
	const an_recipe *r = an_recipe_at(index);
	an_fingerprint *f = NULL;
	for (int i = 0; i < n; i++) {
		const an_published *p = an_published_find(r->id, s[i].chip);
		if (!p && n > 1)
			continue;
		bool heading = !f;
		double error;
		if (!f) {
			cli_status(false, "%s: drawing numbers, computing the reference", r->id);
			cli_check(ctx, an_fingerprint_new(ctx, index, &f));
		}
		cli_status(false, "%s: running %s", r->id, s[i].name);
		cli_check(ctx, an_fingerprint_measure(f, s[i].device, &error));
		cli_status_clear();
		an_verdict v = an_fingerprint_verdict(r, p, error);
		if (json)
			print_json(r, &s[i], p, error, v, !(count[0] + count[1] + count[2] + count[3]));
		else if (heading)
			printf("%s: %s\n", r->id, r->text);
		if (!json)
			print_row(&s[i], p, error, v);
		fflush(stdout);
		count[v]++;
	}
	an_fingerprint_free(f);
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	const char *chip = NULL;
	bool json = false;
	/* clang-format off */
	const cli_option rows[] = {
		{"chip", "NAME", "compare with the figures of this chip: m1, m2pro, ... (default: the profile's)",
		 .text = &chip},
		{"json", NULL, "print a JSON array", .flag = &json},
		CLI_DEVICE_OPTIONS(d, "all"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_fingerprint, rows, argc, argv), n, count[4] = {0};
	for (int i = first; i < argc; i++)
		if (an_recipe_find(argv[i]) < 0) {
			fprintf(stderr, "Fingerprints:");
			for (int j = 0; an_recipe_at(j); j++)
				fprintf(stderr, " %s", an_recipe_at(j)->id);
			fputc('\n', stderr);
			cli_usage("there is no fingerprint \"%s\"", argv[i]);
		}
	if (chip && !has_figures(chip))
		cli_usage("--chip: nothing was published of \"%s\"", chip);

	an_ctx *ctx = cli_open_ctx(&d);
	subject *s = open_subjects(ctx, &d, chip, &n);
	if (!json)
		printf("  %-10s %-22s %-22s %9s  %s\n", "numerics", "measured", "published", "relative",
		       "verdict");
	for (int i = 0; an_recipe_at(i); i++) {
		bool wanted = first == argc;
		for (int j = first; j < argc; j++)
			wanted |= an_recipe_find(argv[j]) == i;
		if (wanted)
			measure(ctx, i, s, n, json, count);
	}
	if (json)
		printf("%s]\n", count[0] + count[1] + count[2] + count[3] ? "" : "[");
	else
		printf("%d equal, %d differ, %d unexplained, %d not published\n", count[AN_EQUAL],
		       count[AN_DIFFERS], count[AN_UNEXPLAINED], count[AN_UNPUBLISHED]);
	for (int i = 0; i < n; i++)
		an_device_close(s[i].device);
	an_ctx_close(ctx);
	free(s);
	return count[AN_DIFFERS] > 0;
}
