/* Everything of Anneal's public interface. */
#ifndef ANNEAL_ANNEAL_H
#define ANNEAL_ANNEAL_H
#include "anneal/base.h"
#include "anneal/mil.h"
#include "anneal/ane.h"
#include "anneal/pass.h"
#include "anneal/device.h"
#include "anneal/text.h"
#include "anneal/io.h"
#include "anneal/check.h"
#include "anneal/nn.h"
#include "anneal/train.h"
#include "anneal/bench.h"
#endif
