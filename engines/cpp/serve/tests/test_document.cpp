#include <doctest/doctest.h>

#include "document.hpp"
#include "doubles.hpp"

using plainconv::json::SyntaxError;
using plainconv::serve::document_of;
using plainconv::serve::most_values;

TEST_CASE("the data of inputs are numbers, all else is JSON") {
  const auto found = document_of(R"({"data": [1], "inputs": [{"name": "a"}, {"data": [[1, 2], [3, 4]], "name": "b"}],
                                     "outputs": [{"data": [5]}]})");
  REQUIRE(found.data.size() == 2);
  CHECK_FALSE(found.data[0].has_value());
  CHECK(found.data[1]->size() == 4);
  CHECK(std::vector<std::int64_t>(found.data[1]->shape().begin(), found.data[1]->shape().end()) ==
        std::vector<std::int64_t>{2, 2});
  CHECK(plainconv::json::shown(found.root, 200) ==
        "{'data': [1], 'inputs': [{'name': 'a'}, {'data': [], 'name': 'b'}], 'outputs': [{'data': [5]}]}");
}

TEST_CASE("what is in an object in data is passed over") {
  const auto found = document_of(R"({"inputs": [{"data": [1, {"data": [1, [2, {}]], "b": null}, 3], "name": "x"}]})");
  CHECK(found.data.at(0)->size() == 3);
  CHECK(found.data.at(0)->is_regular());
}

TEST_CASE("of a key that is there twice the last counts") {
  const auto found = document_of(R"({"inputs": [{"data": [1]}, {"data": [2]}], "a": 1, "a": {"b": 1, "b": 2},
                                     "inputs": [{"data": [1], "data": [3, 4]}, {"data": [5], "data": "x"}, {}]})");
  CHECK(plainconv::json::shown(found.root, 200) == "{'a': {'b': 2}, 'inputs': [{'data': []}, {'data': 'x'}, {}]}");
  REQUIRE(found.data.size() >= 1);
  CHECK(found.data[0]->size() == 2);
  CHECK((found.data.size() == 1 || !found.data[1].has_value()));
}

TEST_CASE("what is no request's JSON") {
  const auto said = [](const std::string& text) { return thrown_by<SyntaxError>([&] { (void)document_of(text); }); };
  const std::string deep(600, '[');
  CHECK(contains(said(R"({"inputs": [{"data": )" + deep), "nested more than 500 levels deep"));
  CHECK(contains(said(deep), "nested more than 500 levels deep"));
  CHECK(contains(said(R"({"inputs": [{"data": [1e999]}]})"), "a number beyond float64"));
  CHECK(contains(said(std::string("{}\0more", 7)), "wrong at byte 3"));
  CHECK(contains(said("\xEF\xBB\xBF{}"), "wrong at byte 1"));
  CHECK(contains(said(R"({"inputs": [{"data": [1, }]})"), "wrong at byte"));
  std::string many = "[0";
  for (std::size_t i = 0; i < most_values; ++i) {
    many += ",0";
  }
  CHECK(contains(said(many + "]"), "more than 65536 values"));
  CHECK(said(R"({"inputs": [{"data": )" + many + "]}]}").empty());
}
