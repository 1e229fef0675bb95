/* Programs and their files: blobs, parameter tables, whole folders. */
#include "mil/blob.h"
#include "mil/ir.h"

struct blob_set {
	struct blob_file {
		const char *path; /* as in the program; in its arena */
		file_view view;
	} * files;
	size_t n, cap;
};

void blob_set_free(an_program *p)
{
	if (!p->blobs)
		return;
	for (size_t i = 0; i < p->blobs->n; i++)
		file_close_view(p->ctx, &p->blobs->files[i].view);
	mem_free(p->ctx, p->blobs->files, p->blobs->cap * sizeof *p->blobs->files);
	mem_free(p->ctx, p->blobs, sizeof *p->blobs);
	p->blobs = NULL;
}
