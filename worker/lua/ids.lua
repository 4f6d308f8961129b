-- What a job's campaign and subscriber are, as worker/mail/jobs.py reads them: tests/vectors/ids.json holds both to it.
-- Stands in front of each script that looks into jobs.
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

-- The job's id by one of two names; the first counts, unless it's empty.
local function id_of(job, camel, snake)
  for _, name in ipairs({ camel, snake }) do
    local value = job[name]
    if value ~= nil and value ~= cjson.null and value ~= '' then
      return id_text(value)
    end
  end
end

local function campaign_of(job)
  return type(job) == 'table' and id_of(job, 'campaignId', 'campaign_id') or nil
end

-- Returns the job's subscriber if it's of this campaign.
local function recipient_of(job, campaign)
  return campaign_of(job) == campaign and id_of(job, 'subscriberId', 'subscriber_id') or nil
end

-- Where a key's name ends in the text, and whether it's there once more. It's looked for by its ending, which begins with
-- a letter that HTML seldom has: Redis's own search is fast between such letters.
local function find_key(data, stem, ending)
  local found, at = nil, 1
  while true do
    local first, last = string.find(data, ending, at, true)
    if not first then
      return found, false
    end
    if string.sub(data, first - #stem - 1, first - 1) == '"' .. stem then
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
local function glance(data, stem)
  local camel, camel_again = find_key(data, stem, 'Id"')
  local snake, snake_again = find_key(data, stem, '_id"')
  if not camel and not snake then
    return ''
  end
  if camel and snake or camel_again or snake_again then
    return nil
  end
  local from = (camel or snake) + 1
  local text = string.match(data, '^%s*:%s*"([^"\\]*)"', from)
  local number = string.match(data, '^%s*:%s*(%d+)%s*[,}]', from)
  return text and id_text(text) or number and id_text(tonumber(number)) or nil
end

-- As recipient_of, of a message or a job as it stands.
local function recipient_at_a_glance(data, campaign, job_of)
  local id = glance(data, 'campaign')
  if id and id ~= campaign then
    return nil
  end
  local subscriber = id and glance(data, 'subscriber')
  if subscriber and subscriber ~= '' then
    return subscriber
  end
  return recipient_of(job_of(decode(data)), campaign)
end
