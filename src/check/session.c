#include "check/session.h"

an_status session_open(session *s, an_device *d, an_function *f, arena *a)
{
	an_type t;
	const char *name;
	*s = (session){.device = d};
	s->in = arena_array(a, (size_t)an_function_inputs(f) + 1, sizeof(*s->in));
	s->out = arena_array(a, (size_t)an_function_outputs(f) + 1, sizeof(*s->out));
	if (!s->in || !s->out)
		return fail_memory(a->ctx, 0);
	TRY(an_compile(d, f, &s->exe));
	TRY(an_call_new(s->exe, &s->call));
	for (; (name = an_executable_input(s->exe, s->nin, &t)); s->nin++) {
		TRY(an_buffer_new(d, &t, &s->in[s->nin]));
		TRY(an_call_bind(s->call, name, s->in[s->nin]));
	}
	for (; (name = an_executable_output(s->exe, s->nout, &t)); s->nout++) {
		TRY(an_buffer_new(d, &t, &s->out[s->nout]));
		TRY(an_call_bind(s->call, name, s->out[s->nout]));
	}
	return AN_OK;
}

void session_close(session *s)
{
	an_call_free(s->call);
	for (int i = 0; s->in && i <= s->nin && s->in[i]; i++)
		an_buffer_free(s->in[i]);
	for (int i = 0; s->out && i <= s->nout && s->out[i]; i++)
		an_buffer_free(s->out[i]);
	an_executable_free(s->exe);
	*s = (session){0};
}

an_status buffer_fill(an_buffer *to, const void *from)
{
	void *memory = an_buffer_map(to);
	if (!memory)
		return AN_DEVICE;
	memcpy(memory, from, an_type_bytes(an_buffer_type(to)));
	an_buffer_unmap(to);
	return AN_OK;
}

an_status buffer_read(an_buffer *from, void *to)
{
	const void *memory = an_buffer_map(from);
	if (!memory)
		return AN_DEVICE;
	memcpy(to, memory, an_type_bytes(an_buffer_type(from)));
	an_buffer_unmap(from);
	return AN_OK;
}
