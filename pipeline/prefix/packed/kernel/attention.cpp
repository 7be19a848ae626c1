// Causal attention of packed examples to themselves and to a shared prefix, on the CPU.
//
// torch's CPU kernel takes one example at a time and is made for long rows: at the lengths of real
// examples (tens of tokens) it spends most of its time outside arithmetic. Here one call serves all
// examples, the query heads of a group are rows of one product, causality halves the work, and the
// prefix is shared. Sums are float32; products too, unless states are bfloat16 and the processor
// multiplies pairs of those.
//
// The prefix is float32 in any case, and so is its gradient: it is trained. Windows and chunks come
// as what each token sees first; softcaps and sinks change the scores (`Terms`).
//
// Every sum is made in an order that depends on the shapes alone, never on the number of threads.
//
// States are [heads, tokens, dim] with strides for heads and tokens and a contiguous last axis; the
// outputs are contiguous [tokens, heads, dim]. `dim` is a multiple of LANES. Plain C++ with GCC's
// and Clang's vector extension: no instruction set is named but that of bfloat16 pairs.

#include "backward.h"
#include "decode.h"
#include "decoder_layer.h"
#include "forward.h"
#include "gated.h"
#include "linear.h"
#include "norm.h"

// `sizes`: tokens, heads, kv_heads, dim, prefix, examples. `strides`: of heads and tokens for each
// of the states, in the order of the arguments.
static Shape shape(const int64_t* sizes, const int64_t* starts, const Terms* terms) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], starts, *terms};
}

template <class T> static States<T> states(void* const* data, const int64_t* strides, int index) {
  return {static_cast<const T*>(data[index]), strides[2 * index], strides[2 * index + 1]};
}

template <class T>
static void run_forward(const int64_t* sizes, const int64_t* starts, const Terms* terms,
                        void* const* data, const int64_t* strides, void* out, float* lse) {
  const auto run = terms->any() ? forward<T, true> : forward<T, false>;
  run(shape(sizes, starts, terms), states<T>(data, strides, 0), states<T>(data, strides, 1),
      states<T>(data, strides, 2), states<float>(data, strides, 3), states<float>(data, strides, 4),
      static_cast<T*>(out), lse);
}

template <class T>
static void run_backward(const int64_t* sizes, const int64_t* starts, const Terms* terms,
                         void* const* data, const int64_t* strides, const float* lse,
                         void* const* grads, float* const* prefix_grads) {
  backward<T>(shape(sizes, starts, terms), states<T>(data, strides, 5),
              states<T>(data, strides, 0), states<T>(data, strides, 1), states<T>(data, strides, 2),
              states<float>(data, strides, 3), states<float>(data, strides, 4),
              states<T>(data, strides, 6), lse, static_cast<T*>(grads[0]),
              static_cast<T*>(grads[1]), static_cast<T*>(grads[2]), prefix_grads[0],
              prefix_grads[1]);
}

// `sizes` as above; `data`: the prefix. What it returns is freed by its own function.
template <class T>
static void* run_prefix(const int64_t* sizes, void* const* data, const int64_t* strides) {
  auto* prefix = new Prefix<typename Operand<T>::type>();
  const Terms none = {};
  pack_prefix(shape(sizes, nullptr, &none), states<float>(data, strides, 0),
              states<float>(data, strides, 1), *prefix);
  return prefix;
}
template <class T> static void run_free(void* prefix) {
  delete static_cast<Prefix<typename Operand<T>::type>*>(prefix);
}

// `sizes` as above, with no examples; `data`: the query, the new keys and values;
// `caches`: of each row its keys, then of each its values.
template <class T>
static void run_decode(const int64_t* sizes, const int64_t* rooms, const int64_t* counts,
                       const Terms* terms, void* const* data, const int64_t* strides,
                       void* const* caches, const void* prefix, void* out) {
  T* const* keys = reinterpret_cast<T* const*>(caches);
  const Cached<T> cached = {keys, keys + sizes[0], rooms, counts};
  const auto run = terms->any() ? decode<T, true> : decode<T, false>;
  run(shape(sizes, nullptr, terms), states<T>(data, strides, 0), states<T>(data, strides, 1),
      states<T>(data, strides, 2),
      *static_cast<const Prefix<typename Operand<T>::type>*>(prefix), cached,
      static_cast<T*>(out));
}

// `outs`, `weights` and `biases` of each layer, biases null where there is none.
template <class T>
static void run_linear(int64_t tokens, int64_t in, int64_t layers, const int64_t* outs,
                       void* const* weights, void* const* biases, const void* given, void* result) {
  linear(tokens, in, layers, outs, reinterpret_cast<const T* const*>(weights),
         reinterpret_cast<const T* const*>(biases), static_cast<const T*>(given),
         static_cast<T*>(result));
}

template <class T>
static void run_before(const void* layer, int64_t tokens, const void* given, const void* cos,
                       const void* sin, void* result) {
  before_attention(*static_cast<const DecoderLayer<T>*>(layer), tokens,
                   static_cast<const T*>(given), static_cast<const T*>(cos),
                   static_cast<const T*>(sin), static_cast<T*>(result));
}
template <class T>
static void run_after(const void* layer, int64_t tokens, const void* given, const void* attended,
                      void* result) {
  after_attention(*static_cast<const DecoderLayer<T>*>(layer), tokens,
                  static_cast<const T*>(given), static_cast<const T*>(attended),
                  static_cast<T*>(result));
}

// `sizes`: in, middle, out, activation. `data`: weights and bias of gate, up and down.
template <class T>
static void run_gated(const int64_t* sizes, void* const* data, int64_t tokens, const void* given,
                      void* result) {
  const auto layer = [&](int i) {
    return Layer<T>{static_cast<const T*>(data[2 * i]), static_cast<const T*>(data[2 * i + 1])};
  };
  gated(tokens, sizes[0], sizes[1], sizes[2], sizes[3], layer(0), layer(1), layer(2),
        static_cast<const T*>(given), static_cast<T*>(result));
}

extern "C" {
int lanes() { return LANES; }
void forward_float32(const int64_t* a, const int64_t* b, const Terms* c, void* const* d,
                     const int64_t* e, void* f, float* g) {
  run_forward<float>(a, b, c, d, e, f, g);
}
void forward_bfloat16(const int64_t* a, const int64_t* b, const Terms* c, void* const* d,
                      const int64_t* e, void* f, float* g) {
  run_forward<BFloat16>(a, b, c, d, e, f, g);
}
void backward_float32(const int64_t* a, const int64_t* b, const Terms* c, void* const* d,
                      const int64_t* e, const float* f, void* const* g, float* const* h) {
  run_backward<float>(a, b, c, d, e, f, g, h);
}
void backward_bfloat16(const int64_t* a, const int64_t* b, const Terms* c, void* const* d,
                       const int64_t* e, const float* f, void* const* g, float* const* h) {
  run_backward<BFloat16>(a, b, c, d, e, f, g, h);
}
void* prefix_float32(const int64_t* a, void* const* b, const int64_t* c) {
  return run_prefix<float>(a, b, c);
}
void* prefix_bfloat16(const int64_t* a, void* const* b, const int64_t* c) {
  return run_prefix<BFloat16>(a, b, c);
}
void free_float32(void* a) { run_free<float>(a); }
void free_bfloat16(void* a) { run_free<BFloat16>(a); }
void decode_float32(const int64_t* a, const int64_t* b, const int64_t* c, const Terms* d,
                    void* const* e, const int64_t* f, void* const* g, const void* h, void* i) {
  run_decode<float>(a, b, c, d, e, f, g, h, i);
}
void decode_bfloat16(const int64_t* a, const int64_t* b, const int64_t* c, const Terms* d,
                     void* const* e, const int64_t* f, void* const* g, const void* h, void* i) {
  run_decode<BFloat16>(a, b, c, d, e, f, g, h, i);
}
void linear_float32(int64_t a, int64_t b, int64_t c, const int64_t* d, void* const* e,
                    void* const* f, const void* g, void* h) {
  run_linear<float>(a, b, c, d, e, f, g, h);
}
void linear_bfloat16(int64_t a, int64_t b, int64_t c, const int64_t* d, void* const* e,
                     void* const* f, const void* g, void* h) {
  run_linear<BFloat16>(a, b, c, d, e, f, g, h);
}
void norm_float32(int64_t a, int64_t b, float c, int64_t d, const float* e, const void* f,
                  void* g) {
  norm(a, b, c, d != 0, e, static_cast<const float*>(f), static_cast<float*>(g));
}
void norm_bfloat16(int64_t a, int64_t b, float c, int64_t d, const float* e, const void* f,
                   void* g) {
  norm(a, b, c, d != 0, e, static_cast<const BFloat16*>(f), static_cast<BFloat16*>(g));
}
void gated_float32(const int64_t* a, void* const* b, int64_t c, const void* d, void* e) {
  run_gated<float>(a, b, c, d, e);
}
void gated_bfloat16(const int64_t* a, void* const* b, int64_t c, const void* d, void* e) {
  run_gated<BFloat16>(a, b, c, d, e);
}
void before_float32(const void* a, int64_t b, const void* c, const void* d, const void* e,
                    void* f) {
  run_before<float>(a, b, c, d, e, f);
}
void before_bfloat16(const void* a, int64_t b, const void* c, const void* d, const void* e,
                     void* f) {
  run_before<BFloat16>(a, b, c, d, e, f);
}
void after_float32(const void* a, int64_t b, const void* c, const void* d, void* e) {
  run_after<float>(a, b, c, d, e);
}
void after_bfloat16(const void* a, int64_t b, const void* c, const void* d, void* e) {
  run_after<BFloat16>(a, b, c, d, e);
}
}
