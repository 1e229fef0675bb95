/* Counting what the chip's arithmetic loses.  The engine does not tell; the software one does.  While the
 * device counts, every call runs there, too, on copies of its inputs and in the chip's profile, and what that
 * counted is the call's count: a prediction, as good as what is published of the chip. */
#include "device/apple/apple.h"

an_status beside_open(apple_device *dev, const char *chip)
{
	if (!chip)
		return fail(dev->ctx, AN_UNSUPPORTED,
			    "counting beside the engine takes the arithmetic of its chip, and the system "
			    "names no chip "
			    "whose arithmetic is published");
	TRY(an_device_open(dev->ctx, &(an_device_options){.name = "soft", .numerics = chip}, &dev->beside));
	return an_device_count(dev->beside, true);
}

an_status beside_compile(apple_model *m, arena *a, an_function *f)
{
	an_device *soft = m->dev->beside;
	int n = m->nin + m->nout;
	if (!soft)
		return AN_OK;
	if (!(m->beside_port = arena_array(a, (size_t)n + 1, sizeof *m->beside_port)))
		return fail_memory(m->dev->ctx, 0);
	TRY(m->own ? an_compile_own(soft, f, &m->beside) : an_compile(soft, f, &m->beside));
	TRY(an_call_new(m->beside, &m->beside_call));
	for (int i = 0; i < n; i++) {
		TRY(an_buffer_new(soft, &m->ports[i].type, &m->beside_port[i]));
		TRY(an_call_bind(m->beside_call, m->ports[i].name, m->beside_port[i]));
	}
	return AN_OK;
}

void beside_free(apple_model *m)
{
	an_call_free(m->beside_call);
	for (int i = 0; m->beside_port && i < m->nin + m->nout; i++)
		an_buffer_free(m->beside_port[i]);
	an_executable_free(m->beside);
}

an_status beside_reload(apple_model *m, an_function *f)
{
	return m->beside ? an_reload(m->beside, f) : AN_OK;
}

an_status beside_run(apple_model *m, an_call *call)
{
	an_counts c;
	for (int i = 0; i < m->nin; i++) {
		const void *from = an_buffer_map(call->bound[i]);
		if (!from)
			return AN_DEVICE;
		memcpy(an_buffer_map(m->beside_port[i]), from, call->bound[i]->bytes);
		an_buffer_unmap(call->bound[i]);
	}
	TRY(an_call_run(m->beside_call));
	for (int i = 0; i < call->exe->nops; i++) {
		TRY(an_executable_counts(m->beside, i, &c));
		dev_add_counts(&call->exe->counts[i], &c);
	}
	an_executable_reset_counts(m->beside);
	return AN_OK;
}
