-- What a job's campaign and subscriber are, as worker/mail/shape.py reads them: tests/vectors/ids.json holds both to it.
-- Stands in front of each script that looks into jobs, behind the names of worker/mail/names.py: CAMPAIGN_NAMES,
-- SUBSCRIBER_NAMES, and how many of each are the app's own, OWN_CAMPAIGN_NAMES, OWN_SUBSCRIBER_NAMES; RECIPIENT_NAMES,
-- TEXT_NAMES, CONTENT_NAMES, NO_WRAPPERS.
local MAX_ID_CHARACTERS = 200
local LARGEST_WHOLE = 9007199254740992

-- cjson refuses half of a surrogate pair, which JSON may hold: U+FFFD instead of it.
local function without_half_surrogates(data)
  local parts, from, at = {}, 1, 1
  while true do
    local start = string.find(data, '\\u[dD][89a-fA-F]%x%x', at)
    if not start then
      break
    end
    local slashes = #string.match(string.sub(data, math.max(start - 1000, 1), start - 1), '\\*$')
    at = start + 6
    if slashes % 2 == 0 then
      if string.find(data, '^\\u[dD][89abAB]', start) and string.find(data, '^\\u[dD][c-fC-F]%x%x', at) then
        at = at + 6
      else
        parts[#parts + 1] = string.sub(data, from, start - 1) .. '\\ufffd'
        from = at
      end
    end
  end
  return table.concat(parts) .. string.sub(data, from)
end

local function decode(data)
  local ok, value = pcall(cjson.decode, data)
  if not ok then
    ok, value = pcall(cjson.decode, without_half_surrogates(data))
  end
  return ok and type(value) == 'table' and value or {}
end

-- Text without the blanks around it, or nil if it can't be an id.
local function id_text(value)
  if type(value) == 'number' then
    if value ~= math.floor(value) or math.abs(value) > LARGEST_WHOLE then
      return nil
    end
    return string.format('%.0f', value + 0)
  end
  if type(value) ~= 'string' then
    return nil
  end
  local text = string.match(value, '^[ \t-\r]*(.-)[ \t-\r]*$')
  local _, characters = string.gsub(text, '[^\128-\191]', '')
  if text == '' or characters > MAX_ID_CHARACTERS or string.find(text, '[%z\1-\31\127]') then
    return nil
  end
  return text
end

local function is_empty(value)
  return value == nil or value == cjson.null or value == '' or (type(value) == 'table' and next(value) == nil)
end

local function address_in(object)
  for _, key in ipairs({ 'address', 'email' }) do
    if type(object[key]) == 'string' and object[key] ~= '' then
      return object[key]
    end
  end
end

local function has_recipient(fields)
  for _, name in ipairs(RECIPIENT_NAMES) do
    local value = fields[name]
    if type(value) == 'string' and value ~= '' or type(value) == 'table' and (value[1] ~= nil or address_in(value)) then
      return true
    end
  end
  return false
end

local function is_object(value)
  return type(value) == 'table' and value[1] == nil and next(value) ~= nil
end

local function has_any(fields, names, but_for_objects)
  for _, name in ipairs(names) do
    if not is_empty(fields[name]) and not (but_for_objects and is_object(fields[name])) then
      return true
    end
  end
  return false
end

-- Whether the job names a recipient, be it nobody.
local function names_recipient(job)
  for _, name in ipairs(RECIPIENT_NAMES) do
    local value = job[name]
    if value ~= nil and not (is_object(value) and not address_in(value)) then
      return true
    end
  end
  return false
end

-- Where the mail's fields are, in their order: in the only object that has a recipient and a content, if the job itself
-- names no recipient and has no text.
local function parts_of(job)
  if not names_recipient(job) and not has_any(job, TEXT_NAMES, true) then
    local wrapped, several = nil, false
    for name, value in pairs(job) do
      if is_object(value) and not NO_WRAPPERS[name] and has_recipient(value) and has_any(value, CONTENT_NAMES) then
        wrapped, several = value, wrapped ~= nil
      end
    end
    if wrapped and not several then
      return { wrapped, job }
    end
  end
  return { job }
end

-- The id that all the names from `first` to `last` agree on in all parts, or false if they don't; nil if there's none.
local function agreed(parts, names, first, last)
  local found
  for _, part in ipairs(parts) do
    for i = first, last do
      if not is_empty(part[names[i]]) then
        local id = id_text(part[names[i]])
        if not id or found and found ~= id then
          return false
        end
        found = id
      end
    end
  end
  return found
end

-- The same of all names: the app's own ones, the first `own`, count before the others.
local function id_of(parts, names, own)
  local id = agreed(parts, names, 1, own)
  if id == nil then
    id = agreed(parts, names, own + 1, #names)
  end
  return id
end

-- The recipient's address, its domain in small letters. Where that isn't ASCII, an address that shape.read_recipient
-- has to finish: Redis can't tell which of Unicode's letters are the same, and how they're written in ASCII.
local function address_id(fields)
  local value
  for _, name in ipairs(RECIPIENT_NAMES) do
    if not is_empty(fields[name]) then
      value = fields[name]
      break
    end
  end
  if type(value) == 'table' and value[1] ~= nil then
    value = value[2] == nil and value[1] or nil
  end
  if type(value) == 'table' then
    value = address_in(value)
  elseif type(value) == 'string' then
    local text = string.match(value, '^[ \t-\r,;]*(.-)[ \t-\r,;]*$')
    value = string.match(text, '<([^<>]*)>$') or string.match(text, '^([^ \t-\r()]+)[ \t-\r]+%(') or text
  end
  if type(value) ~= 'string' then
    return nil
  end
  local before, domain = string.match(string.match(value, '^[ \t-\r]*(.-)[ \t-\r]*$'), '^(.*)@([^@]*)$')
  local id = before and id_text(before .. '@' .. string.lower(domain)) or nil
  return id and string.find(domain, '[\128-\255]') and '\1' .. id or id
end

local function campaign_of(job)
  return type(job) == 'table' and id_of(parts_of(job), CAMPAIGN_NAMES, OWN_CAMPAIGN_NAMES) or nil
end

-- Returns the job's subscriber if it's of this campaign.
local function recipient_of(job, campaign)
  if campaign_of(job) ~= campaign then
    return nil
  end
  local parts = parts_of(job)
  local id = id_of(parts, SUBSCRIBER_NAMES, OWN_SUBSCRIBER_NAMES)
  if id == nil then
    return address_id(parts[1])
  end
  return id or nil
end

-- Where a key's name ends in the text, and whether it's there once more. It's looked for from its last capital letter
-- or underscore on, which HTML seldom has: Redis's own search is fast between such letters.
local function find_key(data, name)
  local split = #(string.match(name, '^.*[A-Z_]') or ' ')
  local stem, ending = '"' .. string.sub(name, 1, split - 1), string.sub(name, split) .. '"'
  local found, at = nil, 1
  while true do
    local first, last = string.find(data, ending, at, true)
    if not first then
      return found, false
    end
    if string.sub(data, first - #stem, first - 1) == stem then
      if found then
        return found, true
      end
      found = last
    end
    at = last + 1
  end
end

-- An id of a job without reading all of its HTML, where the text tells: a key stands nowhere else than in a key's place,
-- for in a string its quotes have a backslash. '' if no such key is there; nil if only the whole job can tell.
local function glance(data, names)
  local from
  for _, name in ipairs(names) do
    local found, again = find_key(data, name)
    if again or found and from then
      return nil
    end
    from = from or found
  end
  if not from then
    return ''
  end
  local text = string.match(data, '^%s*:%s*"([^"\\]*)"', from + 1)
  local number = string.match(data, '^%s*:%s*(%d+)%s*[,}]', from + 1)
  return text and id_text(text) or number and id_text(tonumber(number)) or nil
end

-- As recipient_of, of a message or a job as it stands.
local function recipient_at_a_glance(data, campaign, job_of)
  local id = glance(data, CAMPAIGN_NAMES)
  if id and id ~= campaign then
    return nil
  end
  local subscriber = id and glance(data, SUBSCRIBER_NAMES)
  if subscriber and subscriber ~= '' then
    return subscriber
  end
  return recipient_of(job_of(decode(data)), campaign)
end
