/* What is trained: from sizes and a tokenizer (random weights, TTM layers if asked for), or from a
 * model directory, whose layers stay what they are. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer.h"
#include "models/train/trainer.h"

static int map_floats(float **out, size_t n, const char *what, struct err *err)
{
    void *p = NULL;
    int rc = mem_map(&p, n * sizeof(float), what, err);
    if (!rc) *out = p;
    return rc;
}

/* c_proj is the transpose of c_fc: the same cores with m and n exchanged. */
static void mirror(struct ttm_shape *s, int in, int out)
{
    for (int k = 0; k < s->d; k++) {
        int m = s->m[k];
        s->m[k] = s->n[k];
        s->n[k] = m;
    }
    s->in = in;
    s->out = out;
}

static int one_shape(struct ttm_shape *s, const struct train_args *a, int which, int in, int out,
                     struct err *err)
{
    char name[48];
    net_linear_name(name, 0, which);
    bool given = a->ttm_shape && (which == NET_FC || which == NET_MLP_PROJ);
    if (!given) {
        int rc = ttm_shape_paper(s, in, out, (int)a->ttm_rank, name, err);
        if (!rc) ttm_shape_cap_exact(s);
        return rc;
    }
    int rc = ttm_shape_parse(s, a->ttm_shape, "--ttm-shape", err);
    if (rc) return rc;
    s->in = in;
    s->out = out;
    if (which == NET_MLP_PROJ) mirror(s, in, out);
    ttm_shape_cap_left(s, (int)a->ttm_rank);
    ttm_shape_cap_exact(s);
    return ttm_shape_check(s, name, err);
}

int trainer_shapes(const struct train_args *a, const struct gpt2_config *cfg, net_shapes *shapes,
                   struct err *err)
{
    int sizes[NET_LINEARS][2];
    net_linear_sizes(cfg, sizes);
    bool all = !strcmp(a->ttm_layers, "all");
    memset(shapes, 0, (size_t)cfg->n_layer * sizeof *shapes);
    int rc = 0;
    for (int j = 0; !rc && a->ttm_rank && j < NET_LINEARS; j++) {
        if (!all && j < NET_FC) continue;
        rc = one_shape(&shapes[0][j], a, j, sizes[j][0], sizes[j][1], err);
        for (int i = 1; i < cfg->n_layer; i++)
            shapes[i][j] = shapes[0][j];
    }
    return rc;
}

/* No tensor says whether a configuration is true: layers are as many as the flag may give. */
static int read_config(struct gpt2_config *cfg, const char *dir, struct err *err)
{
    int rc = gpt2_config_load(cfg, dir, err);
    if (rc || cfg->n_layer <= SIZES_MAX_LAYERS) return rc;
    return err_set_param(err, ERR_INVALID, "config",
                         "--config: %s/config.json has %d layers, expected 1..%d", dir,
                         cfg->n_layer, SIZES_MAX_LAYERS);
}

static int from_nothing(struct trainer *r, struct err *err)
{
    struct gpt2_config cfg;
    int rc;
    if (r->a.config) {
        rc = read_config(&cfg, r->a.config, err);
    } else {
        struct sizes sizes = r->a.sizes;
        if (!sizes.vocab) sizes.vocab = tokenizer_vocab(r->tok);
        rc = sizes_resolve(&sizes, &cfg, err);
        cfg.activation = (enum act)checkpoint_activation_parse(r->a.activation);
    }
    if (rc) return rc;
    net_shapes *shapes = mem_alloc((size_t)cfg.n_layer * sizeof *shapes);
    rc = trainer_shapes(&r->a, &cfg, shapes, err);
    cfg.bos_token_id = cfg.eos_token_id = tokenizer_eos(r->tok);
    if (!rc)
        rc = r->a.task ? net_init_classifier(&r->net, &cfg, ITEMS_CLASSES, shapes, err)
                       : net_init(&r->net, &cfg, !cfg.tie_word_embeddings, shapes, err);
    free(shapes);
    if (!rc) rc = map_floats(&r->w, r->net.floats, "parameters", err);
    if (!rc) rc = net_random(&r->net, r->w, (uint64_t)r->a.seed, err);
    return rc;
}

/* A head that is there is kept when it is one of this task; another one has to learn from nothing. */
static void keep_head(struct trainer *r)
{
    const struct eval_classes *classes = eval_classes_of(r->a.task);
    float *head = r->w + r->net.head;
    r->first = classes->first;
    if (!r->a.from || items_first(r->a.from, classes, &r->first, NULL) == 0) return;
    r->first = classes->first;
    memset(head, 0, r->net.outputs * (size_t)r->net.cfg.n_embd * sizeof *head);
}

int trainer_model(struct trainer *r, struct err *err)
{
    const char *tokenizer = r->a.tokenizer ? r->a.tokenizer : r->a.from;
    int rc = tokenizer_open(&r->tok, tokenizer, err);
    if (!rc)
        rc = r->a.from ? net_open(&r->net, &r->w, r->a.from, r->a.task ? ITEMS_CLASSES : 0, err)
                       : from_nothing(r, err);
    if (!rc) rc = net_fits_tokenizer(&r->net, tokenizer_vocab(r->tok), tokenizer, err);
    if (!rc && r->a.task) keep_head(r);
    if (!rc) rc = map_floats(&r->grad, r->net.floats, "gradients", err);
    return rc;
}

int trainer_teacher(struct trainer *r, struct err *err)
{
    if (!r->a.teacher) return 0;
    int rc = net_open(&r->teacher_net, &r->teacher_w, r->a.teacher, 0, err);
    if (!rc && r->teacher_net.cfg.vocab_size != r->net.cfg.vocab_size)
        rc = err_set_param(err, ERR_INVALID, "teacher",
                           "--teacher: %s has a vocabulary of %d, the model one of %d",
                           r->a.teacher, r->teacher_net.cfg.vocab_size, r->net.cfg.vocab_size);
    struct backprop_options o = {.sequences = (size_t)r->a.batch, .length = (size_t)r->a.block};
    if (!rc) rc = backprop_new(&r->teacher.model, &r->teacher_net, &o, &r->c, err);
    r->teacher.w = r->teacher_w;
    r->teacher.temperature = (float)r->a.temperature;
    r->teacher.weight = (float)r->a.teacher_weight;
    return rc;
}
