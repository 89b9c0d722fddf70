#ifndef TTMD_MODELS_TRAIN_TRAINER_H
#define TTMD_MODELS_TRAIN_TRAINER_H

#include "models/tool.h"
#include "models/train/backprop.h"
#include "models/train/optim.h"
#include "models/train/parallel.h"
#include "models/train/run_dir.h"
#include "models/train/runlog.h"
#include "models/train/source.h"
#include "models/train/state.h"
#include "models/train/train_options.h"

/* A training run. The output directory is a model directory from the first checkpoint on:
 *   config.json, tokenizer files   written with the first checkpoint
 *   model.safetensors              the best checkpoint: lowest validation loss, or the last one
 *   train.state                    for --resume
 *   log.jsonl                      the log
 *   train.tokens, valid.tokens     the texts as ids
 *   train.lock                     whose process has the directory
 * Several processes make the same steps on their shares of every batch, and all hold everything; the
 * first one writes. */
struct trainer {
    const struct tool *tool;
    struct tool quiet; /* what `tool` is of the other processes; .log owned */
    struct train_args a;
    struct parallel parallel;
    struct run_dir dir;
    struct compute c; /* pool owned */
    struct tokenizer *tok;
    struct net net;
    float *w, *grad; /* (net.floats) owned by mem_map */
    struct optim optim;
    struct backprop *backprop;
    struct source source;
    int first;                 /* of a classifier: the label of the head's row 0 */
    size_t share;              /* sequences of a batch that one process computes, at most */
    int32_t *tokens, *targets; /* (share * block) owned */
    struct train_state state;
    uint64_t total_steps; /* 0: --minutes alone decides */
    struct runlog log;
    bool exported; /* model.safetensors is this run's best */

    struct net teacher_net;
    float *teacher_w;
    struct backprop_teacher teacher; /* .model NULL: none */
};

/* trainer_open -- everything up to the first step, or after the last one with --resume.
 * Errors  of all kinds; trainer_close() is called by the caller in any case. */
int trainer_open(struct trainer *r, const struct tool *t, const struct train_args *a,
                 struct err *err);
void trainer_close(struct trainer *r);

/* trainer_model -- the model's configuration, shapes and first weights. Part of trainer_open(). */
int trainer_model(struct trainer *r, struct err *err);
int trainer_teacher(struct trainer *r, struct err *err);

/* trainer_shapes -- the TTM layers that --ttm-rank, --ttm-shape and --ttm-layers ask for.
 *   shapes  (cfg->n_layer) written
 * Errors  ERR_INVALID naming flag or layer. */
int trainer_shapes(const struct train_args *a, const struct gpt2_config *cfg, net_shapes *shapes,
                   struct err *err);

/* trainer_run -- steps until the end, or a signal, which is no error: the run is saved.
 * Errors  ERR_IO: the last checkpoint is intact; ERR_INTERNAL when the loss is not finite any more. */
int trainer_run(struct trainer *r, struct err *err);

/* trainer_validate -- mean cross-entropy of evenly spaced blocks of the validation text, or of all its
 * items and how many of them are right. */
struct trainer_valid {
    double loss;
    double accuracy; /* -1: a text */
};
struct trainer_valid trainer_validate(struct trainer *r);

/* trainer_describe -- config.json and the tokenizer's files, what a model needs beside its weights.
 * Errors  ERR_IO, those of tokenizer_copy_files(). */
int trainer_describe(const struct trainer *r, struct err *err);

/* trainer_dtype -- of the model that is written. */
enum dtype trainer_dtype(const struct trainer *r);

#endif
