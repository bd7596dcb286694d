// A stand-in for TensorRT's runtime library: objects whose every virtual call goes to one callback.
//
// A public object is {virtual table, implementation}, as TensorRT's bindings expect it; its implementation is {virtual
// table, what it is, its number}. The tables hold nothing but thunks that pass on which call of which object it is.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <typeinfo>
#include <utility>

namespace {

constexpr std::size_t slots = 96;  // more than any class has
constexpr std::int64_t destroyed = -1;
using Callback = std::int64_t (*)(std::int64_t kind, std::int64_t self, std::int64_t slot, std::int64_t a,
                                  std::int64_t b, std::int64_t c);
Callback callback = nullptr;

struct Table {  // as compilers lay it out: the offset to the top, the type, then what objects point to
  std::int64_t offset = 0;
  const std::type_info* type = nullptr;
  std::array<const void*, slots> calls{};
};

struct Implementation {
  const void* table;
  std::int64_t kind;
  std::int64_t number;
};

struct Public {
  const void* table;
  Implementation* implementation;
};

struct Stranger {};  // a type that no bindings know, so that they take objects for what they are declared as

template <std::size_t Slot>
std::int64_t thunk(Implementation* self, std::int64_t a, std::int64_t b, std::int64_t c) {
  return callback(self->kind, self->number, Slot, a, b, c);
}

// Of calls that return a structure: its address comes first.
template <std::size_t Slot>
void* structure_thunk(void* result, Implementation* self, std::int64_t a, std::int64_t b) {
  callback(self->kind, self->number, Slot, reinterpret_cast<std::int64_t>(result), a, b);
  return result;
}

void keep(Public*) {}
void destroy(Public* self) {
  callback(self->implementation->kind, self->implementation->number, destroyed, 0, 0, 0);
  delete self->implementation;
  delete self;
}

template <std::size_t... Slot>
Table table_of(std::index_sequence<Slot...>) {
  return {0, &typeid(Stranger), {reinterpret_cast<const void*>(&thunk<Slot>)...}};
}

Table calls = table_of(std::make_index_sequence<slots>{});
constexpr std::size_t most_kinds = 8;
std::array<Table, most_kinds> tables;
Table public_table{0, &typeid(Stranger), {}};

template <std::size_t... Slot>
void set_structure(Table& table, std::size_t slot, std::index_sequence<Slot...>) {
  ((Slot == slot ? void(table.calls[Slot] = reinterpret_cast<const void*>(&structure_thunk<Slot>)) : void()), ...);
}

}  // namespace

extern "C" {

void standin_begin(Callback with) {
  callback = with;
  tables.fill(calls);
  public_table.calls[0] = reinterpret_cast<const void*>(&keep);
  public_table.calls[1] = reinterpret_cast<const void*>(&destroy);
}

// A call of a kind of object that returns a structure by memory of its caller's.
void standin_structure(std::int64_t kind, std::int64_t slot) {
  set_structure(tables.at(kind), slot, std::make_index_sequence<slots>{});
}

void* standin_new(std::int64_t kind, std::int64_t number) {
  auto* implementation = new Implementation{tables.at(kind).calls.data(), kind, number};
  return new Public{public_table.calls.data(), implementation};
}

std::int64_t standin_number(const Public* object) { return object->implementation->number; }

void* createInferRuntime_INTERNAL(void*, std::int32_t) noexcept {
  return reinterpret_cast<void*>(callback(0, 0, 0, 0, 0, 0));
}

#define ABSENT(name)                                                  \
  void* name() noexcept {                                             \
    std::fprintf(stderr, "the stand-in library has no " #name "\n"); \
    std::abort();                                                     \
  }
ABSENT(createInferBuilder_INTERNAL)
ABSENT(createInferRefitter_INTERNAL)
ABSENT(createNvOnnxParser_INTERNAL)
ABSENT(createNvOnnxParserRefitter_INTERNAL)
void* getPluginRegistry() noexcept { return nullptr; }
void* getBuilderPluginRegistry(std::int32_t) noexcept { return nullptr; }
std::int32_t getNvOnnxParserVersion() noexcept { return 0; }
std::int32_t getInferLibMajorVersion() noexcept { return 1; }
std::int32_t getInferLibMinorVersion() noexcept { return 7; }
std::int32_t getInferLibPatchVersion() noexcept { return 1; }
std::int32_t getInferLibBuildVersion() noexcept { return 0; }
}
