/* Which memory the engine gets for a port: the buffer's own, or a copy where a quirk asks for it. */
#include "device/apple/apple.h"

size_t memory_size(const apple_device *dev, size_t bytes)
{
	size_t least = (size_t)dev->quirks.value[QUIRK_MIN_SURFACE],
	       unit = (size_t)dev->quirks.value[QUIRK_ALIGNED_SIZE];
	bytes = MAX(bytes, least);
	return unit ? (bytes + unit - 1) / unit * unit : bytes;
}

/* Rows along the last axis, as wide as the engine's port; where the engine does not read packed data, they
 * are 64 bytes apart or a multiple of that (ane-guide chapter 17: the engine's tile). */
typedef struct layout {
	size_t rows, row, stride; /* the last two in bytes */
} layout;

static layout layout_of(const apple_device *dev, const an_type *t)
{
	size_t bytes = an_type_bytes(t), size = an_dtype_size((an_dtype)t->dtype), row = size;
	size_t wide = (size_t)dialect_width(dev, t) * size;
	if (t->rank)
		row *= (size_t)t->dim[t->rank - 1];
	if (!dev->quirks.value[QUIRK_PACKED])
		return (layout){bytes / row, row, (wide + 63) / 64 * 64};
	return row == wide ? (layout){1, bytes, bytes} : (layout){bytes / row, row, wide};
}

static const device_port *engine_port(const apple_model *m, int i) { return &m->ports[m->port[i]]; }

void memory_plan(apple_model *m)
{
	const apple_device *dev = m->dev;
	int n = m->nin + m->nout;
	for (int i = 0; i < n; i++) {
		layout l = layout_of(dev, &engine_port(m, i)->type);
		m->bytes[i] = memory_size(dev, l.rows * l.stride);
	}
	if (!dev->quirks.value[QUIRK_EQUAL_SIZE])
		return;
	size_t in = 0, out = 0;
	for (int i = 0; i < n; i++)
		*(i < m->nin ? &in : &out) = MAX(i < m->nin ? in : out, m->bytes[i]);
	for (int i = 0; i < n; i++)
		m->bytes[i] = i < m->nin ? in : out;
}

/* Whether the engine may work on the buffer itself. */
static bool direct(const apple_model *m, const an_call *call, int i)
{
	const ane_quirks *quirks = &m->dev->quirks;
	const an_buffer *b = call->bound[m->port[i]];
	const apple_memory *memory = b->impl;
	layout l = layout_of(m->dev, &b->type);
	if (b->offset || l.stride != l.row) /* startOffset is ignored (dev-erik, libane) */
		return false;
	if (quirks->value[QUIRK_EQUAL_SIZE] ? memory->bytes != m->bytes[i] : memory->bytes < m->bytes[i])
		return false;
	if (i >= m->nin && quirks->value[QUIRK_OWN_OUTPUTS])
		for (int k = 0; k < m->nin; k++)
			if (call->bound[m->port[k]]->impl == b->impl)
				return false;
	return true;
}

/* Between a buffer and the memory that stands in for it. */
static an_status copy(apple_model *m, const an_call *call, const apple_call *c, int i, bool to_engine)
{
	apple_device *dev = m->dev;
	const apple_route *route = dev->route;
	const an_buffer *b = call->bound[m->port[i]];
	layout l = layout_of(dev, &b->type);
	char *mine = route->lock(dev, b->impl);
	if (!mine)
		return AN_DEVICE;
	char *theirs = route->lock(dev, c->staged[i]);
	an_status s = theirs ? AN_OK : AN_DEVICE;
	for (size_t r = 0; s == AN_OK && r < l.rows; r++) {
		char *x = mine + b->offset + r * l.row, *y = theirs + r * l.stride;
		memcpy(to_engine ? y : x, to_engine ? x : y, l.row);
	}
	if (theirs) {
		an_status unlocked = route->unlock(dev, c->staged[i]);
		s = s == AN_OK ? unlocked : s;
	}
	an_status unlocked = route->unlock(dev, b->impl);
	return s == AN_OK ? unlocked : s;
}

an_status memory_prepare(apple_model *m, an_call *call, apple_call *c)
{
	apple_device *dev = m->dev;
	for (int i = 0; i < m->nin + m->nout; i++) {
		if (direct(m, call, i)) {
			c->memory[i] = call->bound[m->port[i]]->impl;
			continue;
		}
		if (!c->staged[i])
			TRY(dev->route->alloc(dev, m->bytes[i], &c->staged[i]));
		c->memory[i] = c->staged[i];
		if (i < m->nin)
			TRY(copy(m, call, c, i, true));
	}
	return AN_OK;
}

an_status memory_finish(apple_model *m, an_call *call, apple_call *c)
{
	for (int i = m->nin; i < m->nin + m->nout; i++)
		if (c->memory[i] == c->staged[i])
			TRY(copy(m, call, c, i, false));
	return AN_OK;
}
