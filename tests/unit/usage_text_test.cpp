#include "accounting/usage_text.hpp"
#include "accounting/escape.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/unit/mutate.hpp"

namespace limaquota {
namespace {

AccountFigures example() {
  AccountFigures account;
  account.name = "default";
  account.limit = Bytes(16106127360);
  account.used = Bytes(13421772800);
  account.available = Bytes(2684354560);
  account.writable = Bytes(2523293696);
  account.peak = Bytes(13958643712);
  account.virtual_size = Bytes(16106127360);
  account.growth_per_second = 10485760;
  account.seconds_to_full = 256;
  account.disk_line = Bytes(15945066496);
  account.has_limit_file = true;
  account.disks = {{"disk", "qcow2", Bytes(12884901888), Bytes(16106127360)}};
  return account;
}

AccountFigures hostile(std::string name) {
  AccountFigures account;
  account.name = name;
  account.disks = {{name, "raw", 1_B, 2_B}};
  return account;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

bool has_line(const std::string& text, const std::string& line) {
  const std::vector<std::string> lines = lines_of(text);
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

const std::vector<std::string> hostile_names = {
    "a b",      "a\nlimit 0",       "\\",        "\"",       "\x1b[2J",   "\xff\xfe",
    "\xc0\xaf", "\xed\xa0\x80",     "\u009b[2J", "\u2028",   "caf\u00e9", std::string("a\0b", 3),
    "",         "\xf0\x9f\x90\xa7", "\xe2\x82",  "}\",x=\"", "\x7f\t\r"};

TEST(UsageText, HasItsKeysInOrder) {
  EXPECT_EQ(usage_text(example()),
            "limit 16106127360\nused 13421772800\nreserved 0\navailable 2684354560\nwritable 2523293696\n"
            "peak 13958643712\nvirtual 16106127360\nstate ok\nrefused_writes 0\nrefused_bytes 0\n"
            "growth_per_second 10485760\nseconds_to_full 256\ndisk_line 15945066496\nlimit_file yes\n"
            "disk name=disk format=qcow2 allocated=12884901888 virtual=16106127360\n");
}

TEST(UsageText, SaysMaxWhereThereIsNoLimit) {
  const std::string text = usage_text(AccountFigures{});
  for (const char* line :
       {"limit max", "available max", "seconds_to_full max", "disk_line max", "limit_file no"}) {
    EXPECT_TRUE(has_line(text, line)) << line;
  }
  EXPECT_EQ(text.find("loan"), std::string::npos);
}

TEST(UsageText, ShowsALoanAndADamagedLimitFile) {
  AccountFigures account = example();
  account.loan = 512_MiB;
  account.state = AccountState::damaged;
  const std::string text = usage_text(account);
  EXPECT_TRUE(has_line(text, "loan 536870912"));
  EXPECT_TRUE(has_line(text, "limit_file damaged"));
  EXPECT_TRUE(has_line(text, "state damaged"));
}

TEST(UsageText, StatesHaveDistinctNames) {
  std::set<std::string_view> names;
  for (const AccountState state : account_states) {
    names.insert(to_string(state));
  }
  EXPECT_EQ(names,
            (std::set<std::string_view>{"ok", "warn", "full", "host_full", "over", "damaged", "outside"}));
}

TEST(UsageText, EscapesWhatWouldLeaveTheLine) {
  EXPECT_EQ(escape_name("disk"), "disk");
  EXPECT_EQ(escape_name("a b\\c\n"), "a\\040b\\134c\\012");
  EXPECT_EQ(escape_name("caf\u00e9 \xf0\x9f\x90\xa7"), "caf\u00e9\\040\xf0\x9f\x90\xa7");
  EXPECT_EQ(escape_name("\xff"), "\\377");
  EXPECT_EQ(escape_name("\xc0\xaf"), "\\300\\257") << "an overlong form is no UTF-8";
  EXPECT_EQ(escape_name("\xed\xa0\x80"), "\\355\\240\\200") << "a surrogate is no UTF-8";
  EXPECT_EQ(escape_name("\xf4\x90\x80\x80"), "\\364\\220\\200\\200") << "beyond U+10FFFF";
  EXPECT_EQ(escape_name("\xe2\x82"), "\\342\\202") << "cut short";
  EXPECT_EQ(escape_name("\xc2\x9b"), "\\302\\233") << "C1 control";
  EXPECT_EQ(escape_name(std::string("\0\x7f", 2)), "\\000\\177");
  EXPECT_EQ(escape_name("\u2028"), "\\342\\200\\250");
}

TEST(UsageText, AHostileDiskNameStaysOnItsLine) {
  const size_t expected = lines_of(usage_text(hostile("x"))).size();
  for (const std::string& name : hostile_names) {
    const std::vector<std::string> lines = lines_of(usage_text(hostile(name)));
    ASSERT_EQ(lines.size(), expected);
    EXPECT_EQ(std::count(lines.back().begin(), lines.back().end(), ' '), 4) << lines.back();
  }
}

TEST(HostText, HasItsKeysInOrder) {
  EXPECT_EQ(host_text({6_B, 5_B, 4_B, Bytes::unlimited(), 2_B, 1_B}),
            "free 6\nreserve 5\nused 4\nlimits max\nworst_case 2\novercommit 1\n");
}

TEST(SnapshotJson, HasTheKeysOfTheText) {
  const Snapshot snapshot{{}, {example()}};
  const nlohmann::json json = nlohmann::json::parse(snapshot_json(snapshot));
  const nlohmann::json& account = json["accounts"][0];
  EXPECT_EQ(account["name"], "default");
  EXPECT_EQ(account["kind"], "vm");
  for (const std::string& line : lines_of(usage_text(example()))) {
    const std::string key = line.substr(0, line.find(' '));
    const std::string value = line.substr(line.find(' ') + 1);
    if (key == "disk") continue;
    ASSERT_TRUE(account.contains(key)) << key;
    EXPECT_EQ(account[key].is_string() ? account[key].get<std::string>() : account[key].dump(), value);
  }
  EXPECT_EQ(account["disks"], nlohmann::json::parse(R"([{"name": "disk", "format": "qcow2",
      "allocated": 12884901888, "virtual": 16106127360}])"));
  EXPECT_FALSE(account.contains("loan"));
}

TEST(SnapshotJson, NullsWhatIsMaxAndNamesTheKind) {
  Snapshot snapshot;
  snapshot.host.limits = Bytes::unlimited();
  snapshot.accounts = {hostile("vm"), hostile("_disks/data"), hostile("_shared")};
  snapshot.accounts[0].loan = 1_MiB;
  const std::string text = snapshot_json(snapshot);
  EXPECT_EQ(text.back(), '\n');
  const nlohmann::json json = nlohmann::json::parse(text);
  EXPECT_TRUE(json["host"]["limits"].is_null());
  EXPECT_EQ(json["host"]["free"], 0);
  EXPECT_TRUE(json["accounts"][0]["limit"].is_null());
  EXPECT_TRUE(json["accounts"][0]["seconds_to_full"].is_null());
  EXPECT_EQ(json["accounts"][0]["loan"], 1048576);
  EXPECT_EQ(json["accounts"][1]["kind"], "disk");
  EXPECT_EQ(json["accounts"][2]["kind"], "shared");
}

TEST(SnapshotJson, IsValidForHostileNames) {
  Snapshot snapshot;
  for (const std::string& name : hostile_names) snapshot.accounts.push_back(hostile(name));
  const nlohmann::json json = nlohmann::json::parse(snapshot_json(snapshot));
  EXPECT_EQ(json["accounts"].size(), hostile_names.size());
  EXPECT_EQ(json["accounts"][1]["name"], "a\nlimit 0");
  EXPECT_EQ(json["accounts"][5]["name"], "\ufffd\ufffd");
}

// A small reader of the exposition format: every line is HELP, TYPE or a sample of the metric last announced.
void expect_valid_exposition(const std::string& text) {
  std::set<std::string> announced;
  std::string current;
  for (const std::string& line : lines_of(text)) {
    std::istringstream words(line);
    std::string first, second, name;
    words >> first >> second >> name;
    if (first == "#") {
      if (second == "HELP") {
        ASSERT_TRUE(announced.insert(name).second) << name << " announced twice";
      }
      ASSERT_TRUE(second == "HELP" || (second == "TYPE" && announced.count(name) == 1)) << line;
      current = name;
      continue;
    }
    size_t at = line.find_first_of("{ ");
    ASSERT_EQ(line.substr(0, at), current) << line;
    if (line[at] == '{') {
      bool quoted = false;
      for (++at; at < line.size() && (quoted || line[at] != '}'); ++at) {
        if (quoted && line[at] == '\\') {
          ASSERT_NE(std::string("\\\"n").find(line[++at]), std::string::npos) << line;
        } else if (line[at] == '"') {
          quoted = !quoted;
        }
      }
      ++at;
    }
    ASSERT_EQ(line[at], ' ') << line;
    const std::string value = line.substr(at + 1);
    ASSERT_TRUE(value == "+Inf" || value.find_first_not_of("0123456789") == std::string::npos) << line;
  }
}

TEST(PrometheusText, SamplesEveryFigure) {
  Snapshot snapshot;
  snapshot.host = {7_GiB, 1_GiB, 6_B, Bytes::unlimited(), 2_B, 3_B};
  snapshot.accounts = {example(), hostile("a\\b\"c\nd")};
  snapshot.accounts[0].refused_writes = 4;
  snapshot.accounts[0].refused_bytes = 5;
  const std::string text = prometheus_text(snapshot, "/l");
  expect_valid_exposition(text);
  for (const char* line :
       {"up{home=\"/l\"} 1", "host_free_bytes{home=\"/l\"} 7516192768",
        "host_reserve_bytes{home=\"/l\"} 1073741824", "host_used_bytes{home=\"/l\"} 6",
        "host_limits_bytes{home=\"/l\"} +Inf", "host_worst_case_bytes{home=\"/l\"} 2",
        "host_overcommit_bytes{home=\"/l\"} 3", "used_bytes{home=\"/l\",vm=\"default\"} 13421772800",
        "limit_bytes{home=\"/l\",vm=\"default\"} 16106127360",
        "limit_bytes{home=\"/l\",vm=\"a\\\\b\\\"c\\nd\"} +Inf",
        "writable_bytes{home=\"/l\",vm=\"default\"} 2523293696",
        "refused_writes_total{home=\"/l\",vm=\"default\"} 4",
        "refused_bytes_total{home=\"/l\",vm=\"default\"} 5",
        "growth_bytes_per_second{home=\"/l\",vm=\"default\"} 10485760",
        "time_to_full_seconds{home=\"/l\",vm=\"default\"} 256",
        "disk_allocated_bytes{home=\"/l\",vm=\"default\",disk=\"disk\",format=\"qcow2\"} 12884901888",
        "disk_virtual_bytes{home=\"/l\",vm=\"default\",disk=\"disk\",format=\"qcow2\"} 16106127360"}) {
    EXPECT_TRUE(has_line(text, std::string("limaquota_") + line)) << line;
  }
  EXPECT_TRUE(has_line(text, "# TYPE limaquota_refused_writes_total counter"));
}

TEST(PrometheusText, NamesTheHomeOnEverySeries) {
  const std::vector<std::string> lines = lines_of(prometheus_text({{}, {example()}}, "/h/a \"b\"\\"));
  for (const std::string& line : lines) {
    if (line.starts_with("#")) continue;
    EXPECT_NE(line.find("{home=\"/h/a \\\"b\\\"\\\\\""), std::string::npos) << line;
  }
}

TEST(PrometheusText, AStateIsOneOfASet) {
  Snapshot snapshot{{}, {example()}};
  for (const AccountState held : account_states) {
    snapshot.accounts[0].state = held;
    const std::string text = prometheus_text(snapshot, "/l");
    for (const AccountState state : account_states) {
      const std::string series =
          "limaquota_state{home=\"/l\",vm=\"default\",state=\"" + std::string(to_string(state)) + "\"} ";
      EXPECT_TRUE(has_line(text, series + (state == held ? "1" : "0"))) << series;
    }
  }
}

TEST(PrometheusText, AHomeThatDoesNotAnswerIsDownAndNothingElse) {
  const std::string text = prometheus_down_text("/l");
  expect_valid_exposition(text);
  const std::vector<std::string> down = lines_of(text);
  ASSERT_EQ(down.size(), 3u);
  EXPECT_EQ(down[2], "limaquota_up{home=\"/l\"} 0");
  const std::vector<std::string> up = lines_of(prometheus_text({}, "/l"));
  EXPECT_EQ(down[0], up[0]) << "node_exporter wants one HELP for a metric, whichever file it is in";
  EXPECT_EQ(down[1], up[1]);
}

TEST(PrometheusText, IsValidForHostileNames) {
  Snapshot snapshot;
  for (const std::string& name : hostile_names) snapshot.accounts.push_back(hostile(name));
  expect_valid_exposition(prometheus_text(snapshot, "/l"));
}

TEST(UsageTexts, SurviveRandomNames) {
  Mutator mutator(23);
  for (int i = 0; i < 3000; ++i) {
    const std::string name = mutator.mutate(hostile_names);
    const Snapshot snapshot{{}, {hostile(name)}};
    ASSERT_EQ(lines_of(usage_text(snapshot.accounts[0])).size(), 15u);
    ASSERT_TRUE(nlohmann::json::accept(snapshot_json(snapshot)));
    expect_valid_exposition(prometheus_text(snapshot, "/l"));
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace limaquota
